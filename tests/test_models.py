"""What the networks must keep: batch invariance, zero output at the start, exact coordinates, honest switches."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from vidm.config import Content, Diffusion, Experiment, Motion, Network, Sampling, Training
from vidm.errors import InputError
from vidm.models import summary, trained
from vidm.models.posgn import PosGN, unit
from vidm.models.spynet import SpyNet, warp
from vidm.models.summary import kept, parts

SMALL = Network(channels=32, multipliers=(1, 2), blocks=1, attention=(8,), head_channels=32, groups=8)
SIZE, FRAMES = 16, 8


def awake(network):
    """The network with its zero-initialised layers drawn, so that inputs can matter."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in network.parameters():
            if not p.any():
                p.normal_(0, 0.05, generator=g)  # outputs of a trained one's size
    return network.eval()


LABEL = {0: (), 3: (torch.tensor([0, 1, 2, 2, 1, 0, 1]),)}


def motion(classes=0, **switches):
    torch.manual_seed(0)
    return awake(trained.build("motion", Motion(network=SMALL, **switches), SIZE, FRAMES, classes))


@pytest.fixture
def inputs():
    g = torch.Generator().manual_seed(2)
    x_t, x_first, x_prev = torch.randn(3, 7, 3, SIZE, SIZE, generator=g)
    t, n = torch.randint(1000, (7,), generator=g), torch.randint(1, FRAMES, (7,), generator=g)
    return x_t, t, n, x_first.clamp(-1, 1), x_prev.clamp(-1, 1)


# Every form of the motion network: one switch each, the official one, and all of a class-conditional one.
OFFICIAL = {"residual": "features-n", "spynet_range": "signed", "diffusion": Diffusion(variance="learned-range")}
FORMS = [
    {},
    {"posgn": False},
    {"implicit": False},
    {"previous": True},
    {"spynet_levels": "by-size"},
    {"spynet_finetuned": False},
    {"residual": "none"},
    {"residual": "features-n"},
    {"residual": "output"},
    {"residual": "output", "posgn": False},
    OFFICIAL,
]


@pytest.mark.parametrize("switches", FORMS)
@pytest.mark.parametrize("classes", [0, 3])
def test_motion_output_is_zero_at_the_start(switches, classes, inputs):
    network = trained.build("motion", Motion(network=SMALL, **switches), SIZE, FRAMES, classes)
    y = network(*inputs, *LABEL[classes])
    assert y.shape == (7, 6 if switches is OFFICIAL else 3, SIZE, SIZE)
    assert not y.any()


@pytest.mark.parametrize("classes", [0, 3])
def test_content_output_is_zero_at_the_start(classes, inputs):
    facts = Content(network=SMALL, diffusion=Diffusion(variance="learned-range"))
    y = trained.build("content", facts, SIZE, FRAMES, classes)(*inputs[:2], *LABEL[classes])
    assert y.shape == (7, 6, SIZE, SIZE)
    assert not y.any()


@pytest.mark.parametrize("switches", FORMS)
@pytest.mark.parametrize("classes", [0, 3])
@torch.no_grad()
def test_an_item_alone_equals_the_item_in_a_batch(switches, classes, inputs):
    network, inputs = motion(classes, **switches), (*inputs, *LABEL[classes])
    together = network(*inputs)
    assert together.abs().mean() > 1e-3
    for k in range(7):
        assert_close(network(*(v[k : k + 1] for v in inputs))[0], together[k], rtol=0, atol=1e-5)
    layout = {"memory_format": torch.channels_last}
    moved = [v.contiguous(**layout) if v.ndim == 4 else v for v in inputs]
    assert_close(network.to(**layout)(*moved), together, rtol=0, atol=1e-4)


@pytest.mark.parametrize("classes", [0, 3])
@torch.no_grad()
def test_content_batch_invariance_and_constant(classes, inputs):
    torch.manual_seed(0)
    network = awake(trained.build("content", Content(network=SMALL), SIZE, FRAMES, classes))
    inputs = (*inputs[:2], *LABEL[classes])
    together = network(*inputs)
    for k in range(7):
        assert_close(network(*(v[k : k + 1] for v in inputs))[0], together[k], rtol=0, atol=1e-5)
    network.constant.add_(1)
    assert (network(*inputs) - together).abs().mean() > 1e-3
    assert trained.build("content", Content(network=SMALL, constant=False), SIZE, FRAMES).constant is None


@pytest.mark.parametrize("part", ["content", "motion", "motion without posgn"])
@torch.no_grad()
def test_the_class_matters_and_has_to_be_given(part, inputs):
    if part == "content":
        network = awake(trained.build("content", Content(network=SMALL), SIZE, FRAMES, 3))
        inputs = inputs[:2]
    else:
        network = motion(3, posgn=part == "motion")
    one, other = (network(*inputs, torch.full((7,), label)) for label in (0, 2))
    assert (one - other).abs().mean() > 1e-3
    assert_close(network(*inputs, torch.tensor([2])), other, rtol=0, atol=1e-5)  # one label for all
    with pytest.raises(ValueError, match="knows 3 classes"):
        network(*inputs)
    with pytest.raises(ValueError, match="without classes"):
        (motion() if part != "content" else awake(trained.build("content", Content(network=SMALL), SIZE, FRAMES)))(
            *inputs, torch.tensor([0])
        )


def test_a_class_changes_nothing_at_the_start(inputs):
    """A class vector that starts at zero: the conditional PosGN starts as the unconditional one."""
    torch.manual_seed(0)
    plain = PosGN(32, 8, 1000, FRAMES)
    torch.manual_seed(0)
    classed = PosGN(32, 8, 1000, FRAMES, classes=3)
    x, where = torch.randn(7, 32, 4, 4), inputs[1:3]
    assert_close(classed(x, (*where, torch.arange(7) % 3)), plain(x, where))


@torch.no_grad()
def test_output_residual_is_algorithm_1(inputs):
    """eps = rho(x_t, z) + r, and r is a function of frame 0 alone."""
    network = motion(residual="output")
    x_t, t, n, x_first, x_prev = inputs
    r = network.residual_of(x_first, t, n)
    assert r.shape == x_t.shape
    assert_close(network.residual_of(x_first, t * 0 + 3, n * 0 + 5), r, rtol=0, atol=1e-6)
    rho = network.predict(x_t, t, n, network.conditions(x_first, x_prev, n).code, None)
    assert_close(network(*inputs), rho + r, rtol=0, atol=1e-6)
    # A second full U-Net: as large as the first, but for its input of three channels.
    of = lambda part: sum(p.numel() for p in part.parameters())  # noqa: E731
    assert of(network.unet) - of(network.residual) == 2 * 9 * SMALL.channels


@pytest.mark.parametrize("residual, sees", [("features", {"t"}), ("features-n", {"t", "n"}), ("output", set())])
@torch.no_grad()
def test_what_the_residual_is_a_function_of(residual, sees, inputs):
    """Sampling keeps r as long as what it is a function of does not change."""
    network = motion(residual=residual)
    _, t, n, x_first, _ = inputs
    first = lambda r: r if isinstance(r, torch.Tensor) else r[-1]  # noqa: E731
    here = first(network.residual_of(x_first, t, n))
    moved = {
        "t": first(network.residual_of(x_first, (t + 300) % 1000, n)),
        "n": first(network.residual_of(x_first, t, (n + 3) % FRAMES)),
    }
    assert {name for name, other in moved.items() if not torch.equal(other, here)} == sees == network.residual_sees


@torch.no_grad()
def test_one_t_and_n_for_all_is_the_same_as_one_each(inputs):
    network = motion()
    x_t, _, _, x_first, x_prev = inputs
    one = network(x_t, torch.tensor([400]), torch.tensor([3]), x_first, x_prev)
    each = network(x_t, torch.full((7,), 400), torch.full((7,), 3), x_first, x_prev)
    assert_close(one, each, rtol=0, atol=1e-5)


@torch.no_grad()
def test_what_each_switch_takes_away(inputs):
    """The input behind a switch no longer matters, and only that one."""

    def matters(network):
        x_t, t, n, x_first, x_prev = inputs
        y = network(*inputs)
        changed = {
            "n": network(x_t, t, (n % (FRAMES - 1)) + 1, x_first, x_prev),
            "first": network(x_t, t, n, -x_first, x_prev),
            "previous": network(x_t, t, n, x_first, -x_prev),
            "t": network(x_t, (t + 300) % 1000, n, x_first, x_prev),
        }
        return {name for name, other in changed.items() if (other - y).abs().max() > 1e-4}

    assert matters(motion()) == {"n", "first", "previous", "t"}
    assert matters(motion(posgn=False)) == {"first", "previous", "t"}
    assert matters(motion(implicit=False)) == {"n", "first", "t"}
    assert matters(motion(implicit=False, residual="none")) == {"n", "t"}


@torch.no_grad()
def test_the_residual_does_not_see_the_frame_number(inputs):
    network = motion()
    x_t, t, n, x_first, x_prev = inputs
    z, r = network.conditions(x_first, x_prev, n).code, network.residual_of(x_first, t, n)
    assert_close(network.predict(x_t, t, n, z, r), network(*inputs), rtol=0, atol=1e-6)


def test_a_thousand_steps_stay_a_thousand_under_autocast():
    norm = PosGN(32, 32, 1000, 16)
    t, n = torch.arange(1000), torch.zeros(1, dtype=torch.long)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        scale, _ = norm.modulation(t, n, 2, 2)
    assert scale.dtype == torch.float32
    assert len(scale.flatten(1).unique(dim=0)) == 1000
    # The known-bad way: the first linear in bf16 merges them.
    assert len(unit(t, 1000).bfloat16().unique()) < 800


def test_a_thousand_steps_stay_a_thousand_in_tf32():
    """Products of a GPU's TF32, imitated: both factors rounded to ten bits, summed in fp32."""

    def rounded(x):
        return ((x.view(torch.int32) + 2**12) & -(2**13)).view(torch.float32)

    assert (rounded(torch.tensor([1 + 2.0**-10, 1 + 2.0**-12])) == torch.tensor([1 + 2.0**-10, 1.0])).all()
    norm = PosGN(32, 32, 1000, 16)
    t, n = torch.arange(1000), torch.zeros(1, dtype=torch.long)
    with torch.no_grad():
        exact = torch.cat(norm.modulation(t, n, 2, 2), dim=1)
        for layer in (norm.second, norm.third):
            layer.weight.copy_(rounded(layer.weight))
            layer.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]),))
        found = torch.cat(norm.modulation(t, n, 2, 2), dim=1)
    assert len(found.flatten(1).unique(dim=0)) == 1000
    assert (found - exact).norm() < 2**-10 * exact.norm()


def test_coordinates_are_not_state_and_any_order_of_sizes_works():
    norm = PosGN(32, 32, 1000, 16)
    names = {n for n, _ in norm.named_parameters()}
    assert set(norm.state_dict()) == names
    where = (torch.tensor([5]), torch.tensor([3]))
    small = norm.modulation(*where, 4, 6)[0]
    norm.modulation(*where, 9, 9)
    assert_close(norm.modulation(*where, 4, 6)[0], small)
    # h and w are not confused: a wide map is not a tall one turned.
    assert not torch.allclose(norm.modulation(*where, 6, 4)[0].transpose(2, 3), small)


def test_warp_by_whole_pixels():
    image = torch.arange(48.0).view(1, 1, 6, 8)
    flow = torch.zeros(1, 2, 6, 8)
    flow[:, 0], flow[:, 1] = 2, -1
    out = warp(image, flow)
    assert_close(out[0, 0, 1:, :-2], image[0, 0, :-1, 2:])


def test_spynet_ranges_are_the_same_function():
    torch.manual_seed(0)
    unit_range, raw = SpyNet(), SpyNet(input_range=(-1, 1))
    raw.load_state_dict(unit_range.state_dict())
    a, b = torch.rand(2, 1, 3, 40, 56)
    with torch.no_grad():
        assert_close(unit_range(a, b), raw(a, b))  # the range names what is fed; nothing is rescaled
    with pytest.raises(ValueError, match="input_range"):
        SpyNet(input_range=(0, 255))


def named_spynet(pattern, layer):
    torch.manual_seed(0)
    net = SpyNet()
    names = (key.split(".") for key in net.state_dict())
    renamed = {pattern.format(l=n[1], i=layer(int(n[3])), kind=n[4]): ".".join(n) for n in names}
    return net, {new: net.state_dict()[old] for new, old in renamed.items()}


@pytest.mark.parametrize(
    "pattern, layer",
    [
        ("basic_module.{l}.basic_module.{i}.conv.{kind}", lambda i: i),  # BasicVSR, the official code
        ("basic_module.{l}.basic_module.{i}.{kind}", lambda i: 2 * i),  # spynet_*.pth
        ("netBasic.{l}.netBasic.{i}.{kind}", lambda i: 2 * i),  # network-*.pytorch
        ("moduleBasic.{l}.moduleBasic.{i}.{kind}", lambda i: 2 * i),  # the same, as first published
    ],
)
def test_spynet_loads_the_names_of_the_ports(pattern, layer):
    net, weights = named_spynet(pattern, layer)
    loaded = SpyNet()
    loaded.load_pretrained(weights | {"mean": torch.zeros(1), "std": torch.ones(1)})
    for key, value in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    with pytest.raises(RuntimeError, match="Missing key"):
        loaded.load_pretrained(dict(list(weights.items())[1:]))
    with pytest.raises(ValueError, match="conv1"):
        loaded.load_pretrained(weights | {"conv1.weight": torch.zeros(1)})


def test_the_original_pyramid_halves_while_a_side_is_over_32():
    net = SpyNet(levels="by-size")
    depth = {size: len(net.pyramid(torch.zeros(1, 3, *size))) for size in [(32, 32), (64, 64), (96, 32), (1024, 436)]}
    assert depth == {(32, 32): 1, (64, 64): 2, (96, 32): 3, (1024, 436): 6}
    assert len(SpyNet().pyramid(torch.zeros(1, 3, 32, 32))) == 6
    # A small image uses the networks of the coarsest levels, as the original does.
    torch.manual_seed(0)
    a, b = torch.rand(2, 1, 3, 64, 64)
    with torch.no_grad():
        flow = net(a, b)
        for p in net.levels[2].parameters():
            p.add_(1)
        assert torch.equal(net(a, b), flow)
        for p in net.levels[1].parameters():
            p.add_(1)
        assert not torch.equal(net(a, b), flow)
    with pytest.raises(ValueError, match="levels"):
        SpyNet(levels="eight")


def test_what_a_training_keeps_by_hand():
    """A convolution keeps its input, SiLU its own; the last sum nothing. A view of what is kept is kept once."""
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Unflatten(1, (8, 16, 16)))
        x = torch.empty(2, 3, 16, 16)
    assert kept(network, (x,)) == 4 * 2 * 16 * 16 * (3 + 8)
    assert kept(network, (x[:1],)) == 4 * 16 * 16 * (2 * 3 + 8), "a slice keeps the whole"


def small(**facts):
    return Experiment(name="small", dataset="", content=Content(network=SMALL), motion=Motion(network=SMALL), **facts)


def test_a_video_costs_the_frames_that_are_sampled():
    """Which may be more than the grid that the motion network is trained for."""
    sampling = {"steps": 5, "content_steps": 7}
    calls = {
        frames: {(p.network, p.name): p.calls for p in parts(small(sampling=Sampling(frames=frames, **sampling)), SIZE)}
        for frames in (None, 33)
    }
    for frames, further in ((None, 15), (33, 32)):
        assert calls[frames]["content", "U-Net"] == 7
        assert calls[frames]["motion", "U-Net"] == 5 * further
        assert calls[frames]["motion", "residual encoder"] == 5
        assert calls[frames]["motion", "SpyNet"] == further


def test_equal_networks_are_measured_once(monkeypatch):
    """How they are trained and sampled makes no other network; what makes one is measured anew."""
    built = []
    build = trained.build
    monkeypatch.setattr(trained, "build", lambda part, *facts: built.append(part) or build(part, *facts))
    summary._measured.cache_clear()
    once = parts(small(), SIZE)
    assert built == ["content", "motion"]
    other = Content(network=SMALL, training=Training(steps=9), diffusion=Diffusion(loss="mse"))
    assert parts(small().model_copy(update={"content": other, "sampling": Sampling(videos=3)}), SIZE) == once
    assert built == ["content", "motion"]
    for facts in (Motion(network=SMALL, posgn=False), Motion(network=SMALL, diffusion=Diffusion(steps=500))):
        assert parts(small().model_copy(update={"motion": facts}), SIZE)[:3] == once[:3]
    assert built == ["content", "motion", "motion", "motion"]
    assert parts(small(), 2 * SIZE)[0].gflops > 3 * once[0].gflops


def test_save_and_load(tmp_path, inputs):
    network = motion()
    facts = Motion(network=SMALL)
    notes = {
        "part": "motion",
        "facts": facts.model_dump(mode="json"),
        "size": SIZE,
        "frames": FRAMES,
        "classes": {},
        "ema": 0.9,
    }
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    trained.save(network, a, notes)
    trained.save(network, b, dict(reversed(notes.items())))
    assert a.read_bytes() == b.read_bytes()
    loaded, found = trained.load(a, "motion", torch.device("cpu"))
    assert found == notes
    with torch.no_grad():
        assert_close(loaded(*inputs), network(*inputs), rtol=0, atol=1e-4)  # channels_last now
    for key, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)

    with pytest.raises(InputError, match=r"a\.safetensors: holds motion, not a content network"):
        trained.load(a, "content", torch.device("cpu"))
    trained.save(network, tmp_path / "old.safetensors", notes | {"facts": {"no such": "switch"}})
    with pytest.raises(InputError, match=r"old\.safetensors: made by another version"):
        trained.load(tmp_path / "old.safetensors", "motion", torch.device("cpu"))
    (tmp_path / "half.safetensors").write_bytes(a.read_bytes()[:1000])
    for name in ("half.safetensors", "missing.safetensors"):
        with pytest.raises(InputError, match=name):
            trained.load(tmp_path / name, "motion", torch.device("cpu"))
