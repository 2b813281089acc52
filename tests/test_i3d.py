"""I3D: TensorFlow's padding at any size, and what the pretrained weights say of known clips."""

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from vidm import machine, weights
from vidm.errors import InputError
from vidm.metrics.i3d import I3D, _pool, _same, _Unit, load_i3d
from vidm.metrics.protocol import find, preprocess


def place(size, kernel, stride, i):
    """First input under output i's window, as TensorFlow defines 'SAME': written from the definition, in fractions."""
    outputs = math.ceil(Fraction(size, stride))
    total = max((outputs - 1) * stride + kernel - size, 0)
    return i * stride - math.floor(Fraction(total, 2))


@pytest.mark.parametrize("size", range(4, 19))
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (3, 1), (2, 2), (1, 2)])
def test_same_padding_covers_what_tensorflow_covers(size, kernel, stride):
    before, after = _same(size, kernel, stride)
    assert after - before in (0, 1)
    assert -before == place(size, kernel, stride, 0)
    assert (size + before + after - kernel) // stride + 1 == math.ceil(size / stride)


@pytest.mark.parametrize("size", [(9, 14, 15), (16, 8, 8), (15, 9, 12)])
def test_the_strided_convolution_reads_the_right_inputs(size):
    unit = _Unit(1, 1, 7, stride=2).requires_grad_(False)
    x = torch.rand(2, 1, *size)
    for tap in ((0, 0, 0), (6, 6, 6), (2, 3, 4)):
        unit.weight.zero_()[(0, 0, *tap)] = 1  # picks one input per output
        unit.bias.zero_()
        y = unit(x)
        for out in ((0, 0, 0), tuple(n - 1 for n in y.shape[2:]), (1, 2, 3)):
            at = [place(n, 7, 2, i) + k for n, i, k in zip(size, out, tap, strict=True)]
            inside = all(0 <= a < n for a, n in zip(at, size, strict=True))
            expected = x[(slice(None), 0, *at)] if inside else torch.zeros(2)
            torch.testing.assert_close(y[(slice(None), 0, *out)], expected)


@pytest.mark.parametrize("size", [(8, 112, 112), (15, 7, 12), (9, 28, 13), (5, 6, 7)])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3), (1, 1, 1))],
)
def test_pools_are_padded_as_tensorflow_does(size, kernel, stride):
    x = torch.rand(1, 2, *size)
    pad = [p for n, k, s in zip(size, kernel, stride, strict=True) for p in [_same(n, k, s)]][::-1]
    expected = F.max_pool3d(F.pad(x, [v for pair in pad for v in pair]), kernel, stride)
    torch.testing.assert_close(_pool(x, kernel, stride), expected, rtol=0, atol=0)


def test_a_unit_is_convolution_batch_norm_and_relu(detector):
    tensors, _ = weights.load("i3d")
    x = torch.rand(1, 3, 3, 9, 9) * 2 - 1
    name = "Conv3d_1a_7x7"
    pad = [v for n in (9, 9, 3) for v in _same(n, 7, 2)]
    y = F.conv3d(F.pad(x, pad), tensors[f"{name}.conv.weight"], stride=2)
    mean, var, bias = (tensors[f"{name}.norm.{k}"] for k in ("mean", "var", "bias"))
    expected = F.batch_norm(y, mean, var, None, bias, eps=1e-3).relu()
    torch.testing.assert_close(detector.Conv3d_1a_7x7(x), expected, rtol=1e-5, atol=1e-5)


def constant_clips(detector, *values):
    """Logits of videos of 30 frames that are one value throughout."""
    with torch.inference_mode():
        return [detector(torch.full((1, 3, 30, 224, 224), value)).double() for value in values]


def test_all_black_against_all_white_is_the_published_value(detector):
    # Features of a constant set have no covariance: the distance is that of the means.
    black, white, grey = constant_clips(detector, -1.0, 1.0, 0.0)
    assert black.shape == (1, 400)
    value = (black - white).square().sum().item()
    assert value == pytest.approx(151.39244, rel=1e-6)
    # In [0, 1] black is 0: a wrong range is far from it.
    assert (grey - white).square().sum().item() != pytest.approx(151.39244, rel=0.1)


def test_another_epsilon_would_be_caught(detector):
    black, white = constant_clips(load_i3d(eps=1e-5), -1.0, 1.0)
    value = (black - white).square().sum().item()
    assert value == pytest.approx(151.759, rel=1e-5)
    assert value != pytest.approx(151.39244, rel=1e-3)


@pytest.mark.skipif(not machine.has_bf16("cpu"), reason="this CPU only imitates bf16: more than a minute for a clip")
def test_bf16_is_near(detector):
    x = torch.rand(1, 3, 9, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    fast = load_i3d().fast()
    with torch.inference_mode():
        exact, rough = detector(x), fast(x)
    assert rough.dtype == torch.float32 and fast.precision == "bf16" and detector.precision == "fp32"
    assert 0 < (rough - exact).norm() < 0.05 * exact.norm()


def test_a_real_clip_is_recognised(detector, shared):
    image = pytest.importorskip("PIL.Image")
    sequence = pytest.importorskip("PIL.ImageSequence")
    import numpy as np

    with image.open(shared / "data" / "ucf101_v_CricketShot_g04_c01.gif") as gif:
        frames = np.stack([np.asarray(frame.convert("RGB")) for frame in sequence.Iterator(gif)])
    assert len(frames) == 79
    with torch.inference_mode():
        chance = detector(preprocess(frames[None], find("styleganv"))).softmax(1)[0]
    assert chance.argmax() == 227  # playing cricket
    assert chance[227].item() == pytest.approx(0.989, abs=0.01)


def test_a_clip_does_not_depend_on_its_batch_or_layout(detector):
    x = torch.rand(2, 3, 9, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        together = detector(x)
        torch.testing.assert_close(detector(x[1:]), together[1:], rtol=1e-4, atol=1e-4)
        other = detector(x.contiguous(memory_format=torch.channels_last_3d))
        torch.testing.assert_close(other, together, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(detector(x), together, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(1, 3, 8, 224, 224), (1, 3, 16, 128, 128), (3, 16, 224, 224), (1, 16, 224, 224, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match="clips must be"):
        I3D()(torch.zeros(1).expand(shape))
