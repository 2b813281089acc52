"""What the networks must keep: batch invariance, zero output at the start, exact coordinates, honest switches."""

import pytest
import torch
from torch.testing import assert_close

from vidm.config import Content, Motion, Network
from vidm.errors import InputError
from vidm.models import trained
from vidm.models.posgn import PosGN, unit
from vidm.models.spynet import SpyNet, warp

SMALL = Network(channels=32, multipliers=(1, 2), blocks=1, attention=(8,), head_channels=32, groups=8)
SIZE, FRAMES = 16, 8


def awake(network):
    """The network with its zero-initialised layers drawn, so that inputs can matter."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in network.parameters():
            if not p.any():
                p.normal_(0, 0.1, generator=g)
    return network.eval()


def motion(**switches):
    torch.manual_seed(0)
    return awake(trained.build("motion", Motion(network=SMALL, **switches), SIZE, FRAMES))


@pytest.fixture
def inputs():
    g = torch.Generator().manual_seed(2)
    x_t, x_first, x_prev = torch.randn(3, 7, 3, SIZE, SIZE, generator=g)
    t, n = torch.randint(1000, (7,), generator=g), torch.randint(1, FRAMES, (7,), generator=g)
    return x_t, t, n, x_first.clamp(-1, 1), x_prev.clamp(-1, 1)


@pytest.mark.parametrize("part, facts", [("content", Content(network=SMALL)), ("motion", Motion(network=SMALL))])
def test_output_is_zero_at_the_start(part, facts, inputs):
    network = trained.build(part, facts, SIZE, FRAMES)
    y = network(*inputs[:2]) if part == "content" else network(*inputs)
    assert y.shape == (7, 3, SIZE, SIZE)
    assert not y.any()


@pytest.mark.parametrize("switches", [{}, {"posgn": False}, {"implicit": False}, {"residual": "none"}])
@torch.no_grad()
def test_an_item_alone_equals_the_item_in_a_batch(switches, inputs):
    network = motion(**switches)
    together = network(*inputs)
    assert together.abs().mean() > 1e-3
    for k in range(7):
        assert_close(network(*(v[k : k + 1] for v in inputs))[0], together[k], rtol=0, atol=1e-5)


@torch.no_grad()
def test_content_batch_invariance_and_constant(inputs):
    torch.manual_seed(0)
    network = awake(trained.build("content", Content(network=SMALL), SIZE, FRAMES))
    x, t = inputs[:2]
    together = network(x, t)
    assert_close(network(x[3:4], t[3:4])[0], together[3], rtol=0, atol=1e-5)
    network.constant.add_(1)
    assert (network(x, t) - together).abs().mean() > 1e-3
    assert trained.build("content", Content(network=SMALL, constant=False), SIZE, FRAMES).constant is None


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
    z, r = network.motion_code(x_first, x_prev), network.first_features(x_first, t)
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


def test_save_and_load(tmp_path, inputs):
    network = motion()
    facts = Motion(network=SMALL)
    notes = {"part": "motion", "facts": facts.model_dump(mode="json"), "size": SIZE, "frames": FRAMES, "ema": 0.9}
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
    (tmp_path / "half.safetensors").write_bytes(a.read_bytes()[:1000])
    for name in ("half.safetensors", "missing.safetensors"):
        with pytest.raises(InputError, match=name):
            trained.load(tmp_path / name, "motion", torch.device("cpu"))
