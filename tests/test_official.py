"""Parts and whole against tensors of the official network (fp32, CPU)."""

import json
from argparse import Namespace

import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F
from torch.testing import assert_close

from vidm.config import Experiment, Network
from vidm.errors import InputError
from vidm.models import trained
from vidm.models.blocks import Attention, ResBlock
from vidm.models.official import ATTENTION, RES, load_official_motion, official_facts, sizes_of
from vidm.models.posgn import PosGN
from vidm.models.spynet import SpyNet, warp
from vidm.models.summary import parts

EXACT = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(scope="module")
def whole(shared):
    """(tensors, size keywords) with the weights of the whole small network."""
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
    group = f"res_{kind}"
    block = ResBlock(32, golden[f"{group}/out"].shape[1], posgn, 32, resample=resample)
    block.load_state_dict(weights(golden, group, RES), strict=True)
    block.to(memory_format=layout)
    where = (golden[f"{group}/dt"], golden[f"{group}/vt"])
    with torch.no_grad():
        y = block(golden[f"{group}/x"].contiguous(memory_format=layout), where)
    assert_close(y, golden[f"{group}/out"], **EXACT)


def test_positional_modulation(golden):
    norm = posgn(32)
    names = {k.removeprefix("emb_layers."): v.removeprefix("norm.") for k, v in RES.items()}
    state = weights(golden, "emb", names)
    norm.load_state_dict({k: v for k, v in state.items() if not k.startswith("conv_out")}, strict=True)
    scale, shift = norm.modulation(golden["emb/dt"], golden["emb/vt"], 6, 8)
    assert_close(scale, golden["emb/scale"], **EXACT)
    assert_close(shift, golden["emb/shift"], **EXACT)
    # The known mistake, the frame off by one, is far outside of the tolerance.
    wrong, _ = norm.modulation(golden["emb/dt"], golden["emb/vt"] - 1, 6, 8)
    assert (wrong - scale).abs().max() > 1e-3


def test_attention(golden):
    attention = Attention(64, 32, 32)
    attention.load_state_dict(weights(golden, "attn", ATTENTION), strict=True)
    with torch.no_grad():
        assert_close(attention(golden["attn/x"]), golden["attn/out"], **EXACT)


def test_warp(golden):
    out = warp(golden["warp/x"], golden["warp/flow_nhw2"].permute(0, 3, 1, 2))
    assert_close(out, golden["warp/out_border"], **EXACT)


def test_spynet(whole):
    tensors, _ = whole
    net = SpyNet(input_range=(-1, 1))
    prefix = "w/spynet."
    net.load_pretrained({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    with torch.no_grad():
        flow = net(tensors["spy/ref"], tensors["spy/supp"])
        swapped = net(tensors["spy/supp"], tensors["spy/ref"])
    assert_close(flow, tensors["spy/flow"], **EXACT)
    assert (swapped - flow).abs().max() > 1


def official_state(whole):
    return {k.removeprefix("w/"): v for k, v in whole[0].items() if k.startswith("w/")}


def inputs(size=64):
    x = torch.randn(3, 2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return x[0], torch.tensor([3, 999]), torch.tensor([1, 15]), x[1], x[2]


def test_the_whole_state_dict_loads_strictly(whole):
    state, config = official_state(whole), whole[1]
    lazy = {"unet.input_blocks.1.0.emb_layers.coords": torch.zeros(1), "encoder.x.new_coords": torch.zeros(1)}
    network = load_official_motion(state | lazy, **config)
    x = inputs()
    with torch.no_grad():
        y, alone = network(*x), network(*(v[1:] for v in x))
        layout = {"memory_format": torch.channels_last}
        moved = load_official_motion(state, **config).to(**layout)
        last = moved(*(v.contiguous(**layout) if v.ndim == 4 else v for v in x))
    assert y.shape == (2, 6, 64, 64)
    assert_close(y[1:], alone, rtol=0, atol=1e-5)
    assert_close(last, y, **EXACT)

    with pytest.raises(InputError, match="1 keys missing"):
        load_official_motion({k: v for k, v in state.items() if k != "unet.out.2.bias"}, **config)
    with pytest.raises(InputError, match="1 left over"):
        load_official_motion(state | {"unet.surprise": torch.zeros(1)}, **config)
    with pytest.raises(InputError, match=r"has shape|keys missing"):
        load_official_motion(state, **config | {"channel_mult": [1, 2, 2]})


def by_name(w, x_t, t, n, x_first, x_prev, frames, head_channels):
    """The whole forward pass of the official network, written down by the names of its weights, without our modules.

    A block is a ResBlock, perhaps attention, perhaps a ResBlock that doubles the size; what halves is a block alone.
    """

    def conv(key, x, padding=0):
        kernel = w[f"{key}.weight"]
        kernel = kernel.unsqueeze(-1) if kernel.ndim == 3 else kernel  # attention has 1-D convolutions
        return F.conv2d(x, kernel, w[f"{key}.bias"], padding=padding)

    def norm(key, x):
        return F.group_norm(x, 32, w[f"{key}.weight"], w[f"{key}.bias"])

    def linear(key, x):
        return F.linear(x, w[f"{key}.weight"], w[f"{key}.bias"])

    def res(key, x, resample):
        h = F.silu(norm(f"{key}.in_layers.0", x))
        if resample == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        elif resample == "up":
            h, x = (v.repeat_interleave(2, -1).repeat_interleave(2, -2) for v in (h, x))
        h = conv(f"{key}.in_layers.2", h, 1)
        rows, columns = (torch.linspace(-1, 1, s) for s in h.shape[-2:])
        time, frame = torch.linspace(-1, 1, 1000)[t], torch.linspace(-1, 1, frames)[n]
        grid = torch.stack(
            [
                time.view(-1, 1, 1).expand(-1, *h.shape[-2:]),
                frame.view(-1, 1, 1).expand(-1, *h.shape[-2:]),
                rows.view(1, -1, 1).expand(len(h), *h.shape[-2:]),
                columns.view(1, 1, -1).expand(len(h), *h.shape[-2:]),
            ],
            dim=-1,
        )
        e = f"{key}.emb_layers"
        y = linear(f"{e}.linear_1.2", F.silu(linear(f"{e}.linear_1.0", torch.sin(linear(f"{e}.linear_0", grid)))))
        scale, shift = y.permute(0, 3, 1, 2).chunk(2, 1)
        h = conv(f"{e}.out_rest.1", F.silu(norm(f"{e}.out_norm", h) * (1 + scale) + shift), 1)
        return h + (conv(f"{key}.skip_connection", x) if f"{key}.skip_connection.weight" in w else x)

    def attention(key, x):
        b, c, height, width = x.shape
        heads = conv(f"{key}.qkv", norm(f"{key}.norm", x)).reshape(b, c // head_channels, 3 * head_channels, -1)
        q, k, v = heads.chunk(3, 2)
        share = torch.einsum("bhcq,bhck->bhqk", q, k).div(head_channels**0.5).softmax(-1)
        return x + conv(f"{key}.proj_out", torch.einsum("bhqk,bhck->bhcq", share, v).reshape(b, c, height, width))

    def block(key, x):
        if f"{key}.0.weight" in w:
            return conv(f"{key}.0", x, 1)
        for j in range(3):
            if f"{key}.{j}.qkv.weight" in w:
                x = attention(f"{key}.{j}", x)
            elif f"{key}.{j}.in_layers.0.weight" in w:
                double = "output_blocks" in key and j > 0
                x = res(f"{key}.{j}", x, "down" if key in halves else "up" if double else None)
        return x

    halves = {f"{net}.input_blocks.{i}" for net in ("unet", "encoder") for i in (2, 4)}  # one block a level
    count = len({key.split(".")[2] for key in w if key.startswith("encoder.input_blocks.")})
    features, h = [], x_first
    for i in range(count):
        h = block(f"encoder.input_blocks.{i}", h)
        features.append(h)
    spynet = SpyNet(input_range=(-1, 1))
    spynet.load_pretrained({k.removeprefix("spynet."): v for k, v in w.items() if k.startswith("spynet.")})
    h, skips = torch.cat([x_t, spynet(x_first, x_prev)], 1), []
    for i in range(count):
        h = features[i] + 0.2 * block(f"unet.input_blocks.{i}", h)
        skips.append(h)
    h = res("unet.middle_block.2", attention("unet.middle_block.1", res("unet.middle_block.0", h, None)), None)
    for i in range(count):
        h = block(f"unet.output_blocks.{i}", torch.cat([h, skips.pop()], 1))
    return conv("unet.out.2", F.silu(norm("unet.out.0", h)), 1)


def test_the_whole_network_is_wired_as_its_names_say(whole):
    """Against a second writing of the forward pass, on the official names."""
    state, config = official_state(whole), whole[1]
    with torch.no_grad():
        ours = load_official_motion(state, **config)(*inputs())
        theirs = by_name({k: v.float() for k, v in state.items()}, *inputs(), frames=16, head_channels=32)
    assert ours.abs().max() > 0.1
    assert_close(ours, theirs, **EXACT)


def test_a_checkpoint_file_loads(whole, tmp_path):
    """What the official trainer saves: two state dicts and more, DDP's prefix before the names."""
    state, config = official_state(whole), whole[1]
    ema = {f"module.{k}": v for k, v in state.items()}
    raw = {k: v * 0 for k, v in ema.items()}
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({"step": 7, "state_dict": raw, "ema_state_dict": ema, "optimizer": {"lr": [1e-5]}}, path)
    with torch.no_grad():
        truth = load_official_motion(state, **config)(*inputs())
        assert_close(load_official_motion(path, **config)(*inputs()), truth, rtol=0, atol=0)
        assert not load_official_motion(str(path), ema=False, **config)(*inputs()).any()


def test_import_from_the_command_line(whole, tmp_path, vidm):
    """Sizes are read from the weights; the time grid and the image size travel in the file."""
    state, config = official_state(whole), whole[1]
    path, out = tmp_path / "official.pth.tar", tmp_path / "motion.safetensors"
    torch.save({"state_dict": state}, path)
    shown = vidm("weights", "import-official", path, "--out", out, "--frames", 16, "--size", 64, "--head-channels", 32)
    assert shown.returncode == 0, shown.stderr
    assert "built for 16 frames of 64 pixels" in shown.stdout
    network, notes = trained.load(out, "motion", torch.device("cpu"))
    assert (notes["frames"], notes["size"], notes["facts"]["network"]["attention"]) == (16, 64, [16])
    with torch.no_grad():
        assert_close(network(*inputs()), load_official_motion(state, **config)(*inputs()), **EXACT)


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("text.pth", b"hello", "not a file of torch.save"),
        ("empty.pth.tar", b"", "not a file of torch.save"),
        ("missing.pth", None, "no such file"),
        ("other.pth", {"state_dict": {"conv.weight": torch.zeros(1)}}, "no official VIDM motion network"),
        ("args.pth", {"state_dict": {}, "args": Namespace(lr=1)}, "more than tensors (argparse.Namespace)"),
        ("number.pth", {"state_dict": {"lr": 1.0}}, "'lr' is no tensor"),
    ],
)
def test_what_is_not_an_official_checkpoint(name, content, said, tmp_path, vidm):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    shown = vidm("weights", "import-official", path)
    assert shown.returncode == 2
    assert f"{path}: " in shown.stderr and said in shown.stderr
    assert len(shown.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("*.safetensors"))


def test_parameters_and_flops_of_the_full_network(shared):
    """194.18 M = 148.62 + 44.12 + 1.44; 232.7 GFLOPs at 128 px, 20.7 % of them in the coordinate MLPs."""
    keys = json.loads((shared / "golden" / "official_keys.json").read_text())
    with torch.device("meta"):
        state = {k: torch.empty(shape) for k, shape in keys.items()}
        network = load_official_motion(state, video_timesteps=128)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == 194.18
    assert sizes_of(state) == {
        "model_channels": 128,
        "channel_mult": (1, 1, 2, 2, 4, 4),
        "num_res_blocks": 2,
        "attention_resolutions": (16,),
        "out_channels": 6,
    }
    facts = official_facts(Network(attention=(8,)))
    found = {
        p.name: p for p in parts(Experiment(name="official", dataset="", motion=facts), 128) if p.network == "motion"
    }
    assert {name: round(p.parameters / 1e6, 2) for name, p in found.items()} == {
        "U-Net": 148.62,
        "residual encoder": 44.12,
        "SpyNet": 1.44,
    }
    # The official code makes the 4-D grid of coordinates and multiplies it out: 0.1 % more than ours.
    for name, gflops in {"U-Net": 174.9, "residual encoder": 47.3, "SpyNet": 10.5}.items():
        assert found[name].gflops == pytest.approx(gflops, rel=2e-3)
    whole = sum(p.gflops for p in found.values())
    assert sum(p.coordinates for p in found.values()) / whole == pytest.approx(0.207, abs=1e-3)
