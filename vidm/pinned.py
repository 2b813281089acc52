"""The sha256 of every pretrained file, by its name in vidm.weights: apart, for the workflow, which loads no torch."""

SHA256 = {
    "i3d": "01f2a82394d01f260ad034da186b315d95f036bb4573d7baf680839cf69c44b9",
    "inception": "835f4d5effc452ccdc7c0be4e65202759127aa98c629d134e6b9ac36257579dc",
    "spynet": "dbe6ab654e27f47e4714b3d8755e673d757de74ebaf42af8acbde24424f20788",
    "spynet-procedural": "e05f94d4b647ebaad62759f85cc205bcfd487f980d018d860bc368abf416d6c8",
}
