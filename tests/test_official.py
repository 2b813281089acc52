"""Parts and whole against tensors of the official network (fp32, CPU)."""

import json

import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

from vidm.errors import InputError
from vidm.models.blocks import Attention, ResBlock
from vidm.models.official import ATTENTION, RES, OfficialMotion, load_official_motion
from vidm.models.posgn import PosGN
from vidm.models.spynet import SpyNet, warp

EXACT = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(scope="module")
def golden(shared):
    with safe_open(shared / "golden" / "official_small.safetensors", "pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, json.loads(file.metadata()["config"])  # noqa: SIM118


def weights(golden, group, names):
    """The weights `group/w/*` under our names; None in `names` drops one."""
    state = {}
    for key, value in golden.items():
        if key.startswith(f"{group}/w/"):
            official, kind = key.removeprefix(f"{group}/w/").rsplit(".", 1)
            state[f"{names[official]}.{kind}"] = value.unsqueeze(-1) if value.ndim == 3 else value
    return state


def posgn(width):
    return PosGN(width, 32, 1000, 16)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind, resample", [("same", None), ("widen", None), ("down", "down"), ("up", "up")])
def test_residual_block(golden, kind, resample, layout):
    tensors, _ = golden
    group = f"res_{kind}"
    block = ResBlock(32, tensors[f"{group}/out"].shape[1], posgn, 32, resample=resample)
    block.load_state_dict(weights(tensors, group, RES), strict=True)
    block.to(memory_format=layout)
    where = (tensors[f"{group}/dt"], tensors[f"{group}/vt"])
    with torch.no_grad():
        y = block(tensors[f"{group}/x"].contiguous(memory_format=layout), where)
    assert_close(y, tensors[f"{group}/out"], **EXACT)


def test_positional_modulation(golden):
    tensors, _ = golden
    norm = posgn(32)
    names = {k.removeprefix("emb_layers."): v.removeprefix("norm.") for k, v in RES.items()}
    state = weights(tensors, "emb", names)
    norm.load_state_dict({k: v for k, v in state.items() if not k.startswith("conv_out")}, strict=True)
    scale, shift = norm.modulation(tensors["emb/dt"], tensors["emb/vt"], 6, 8)
    assert_close(scale, tensors["emb/scale"], **EXACT)
    assert_close(shift, tensors["emb/shift"], **EXACT)
    # The known mistake, the frame off by one, is far outside of the tolerance.
    wrong, _ = norm.modulation(tensors["emb/dt"], tensors["emb/vt"] - 1, 6, 8)
    assert (wrong - scale).abs().max() > 1e-3


def test_attention(golden):
    tensors, _ = golden
    attention = Attention(64, 32, 32)
    attention.load_state_dict(weights(tensors, "attn", ATTENTION), strict=True)
    with torch.no_grad():
        assert_close(attention(tensors["attn/x"]), tensors["attn/out"], **EXACT)


def test_spynet_and_warp(golden):
    tensors, _ = golden
    net = SpyNet(input_range=(-1, 1))
    prefix = "w/spynet."
    net.load_pretrained({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    with torch.no_grad():
        flow = net(tensors["spy/ref"], tensors["spy/supp"])
        swapped = net(tensors["spy/supp"], tensors["spy/ref"])
    assert_close(flow, tensors["spy/flow"], **EXACT)
    assert (swapped - flow).abs().max() > 1
    out = warp(tensors["warp/x"], tensors["warp/flow_nhw2"].permute(0, 3, 1, 2))
    assert_close(out, tensors["warp/out_border"], **EXACT)


def test_the_whole_state_dict_loads_strictly(golden):
    tensors, config = golden
    state = {k.removeprefix("w/"): v for k, v in tensors.items() if k.startswith("w/")}
    lazy = {"unet.input_blocks.1.0.emb_layers.coords": torch.zeros(1), "encoder.x.new_coords": torch.zeros(1)}
    network = load_official_motion(state | lazy, **config)
    x = torch.randn(3, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    t, n = torch.tensor([3, 999]), torch.tensor([1, 15])
    with torch.no_grad():
        y = network(x[0], t, n, x[1], x[2])
        alone = network(x[0, 1:], t[1:], n[1:], x[1, 1:], x[2, 1:])
    assert y.shape == (2, 6, 64, 64)
    assert_close(y[1:], alone, rtol=0, atol=1e-5)

    with pytest.raises(InputError, match="1 keys missing"):
        load_official_motion({k: v for k, v in state.items() if k != "unet.out.2.bias"}, **config)
    with pytest.raises(InputError, match="1 left over"):
        load_official_motion(state | {"unet.surprise": torch.zeros(1)}, **config)


def test_parameter_counts_of_the_full_network(shared):
    keys = json.loads((shared / "golden" / "official_keys.json").read_text())
    with torch.device("meta"):
        state = {k: torch.empty(shape) for k, shape in keys.items()}
        network = load_official_motion(state, video_timesteps=128)
    assert isinstance(network, OfficialMotion)

    def millions(part):
        return round(sum(p.numel() for p in part.parameters()) / 1e6, 2)

    assert (millions(network.unet), millions(network.encoder), millions(network.spynet)) == (
        148.62,
        44.12,
        1.44,
    )
    assert millions(network) == 194.18
