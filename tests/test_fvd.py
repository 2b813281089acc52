"""FVD of arrays: published values, what a wrong choice moves, protocols, bad input."""

import numpy as np
import pytest
import torch

from vidm.errors import InputError
from vidm.metrics import fvd
from vidm.metrics.frechet import Moments, distance, frechet_distance
from vidm.metrics.protocol import PROTOCOLS, find, preprocess, table
from vidm.protocols import OwnProtocol, own


@pytest.fixture(scope="module")
def clips():
    """Two small sets: flickering squares that move, and others."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (3, 18, 12, 12, 3), np.uint8), rng.integers(90, 160, (3, 16, 12, 12, 3), np.uint8)


@pytest.mark.pipeline
def test_random_clips_give_the_published_value(detector):
    """256 clips: minutes. Published: 10.13808536529541 (TensorFlow), 10.138084766713924 (torch)."""
    sides = []
    for seed in (1, 2):
        rng, moments = np.random.RandomState(seed), Moments()
        for _ in range(32):  # the same stream as rand(128, ...) at once, without its 2.5 GB
            batch = rng.rand(4, 16, 224, 224, 3).astype(np.float32)
            with torch.inference_mode():
                moments.update(detector(torch.from_numpy(batch).permute(0, 4, 1, 2, 3)).numpy())
        sides.append(moments)
    one, two = sides
    value = frechet_distance(one.mean, one.covariance(1), two.mean, two.covariance(1))
    assert value == pytest.approx(10.13808536529541, rel=2e-6)
    biased = frechet_distance(one.mean, one.covariance(0), two.mean, two.covariance(0))
    assert biased == pytest.approx(10.06279, rel=2e-6)


def test_fvd_is_the_distance_of_its_features(detector, clips):
    real, fake = clips[1], clips[1][:, ::-1].copy()
    found = fvd(real, fake)
    with torch.inference_mode():
        features = [detector(preprocess(c, find("styleganv"))).double().numpy() for c in (real, fake)]
    expected = frechet_distance(*(f(a) for a in features for f in (lambda a: a.mean(0), lambda a: np.cov(a.T, ddof=0))))
    assert found.value == pytest.approx(expected, rel=1e-5)
    assert found.n == 3 and found.protocol.name == "styleganv"
    assert any("rank-deficient" in text for text in found.warnings)


def test_a_wrong_range_differs_and_the_labelled_bug_is_that_range(detector, clips):
    real, fake = clips[1], 255 - clips[1]
    right, wrong = fvd(real, fake, "styleganv"), fvd(real, fake, "vidm-script")
    assert abs(wrong.value / right.value - 1) > 0.1
    with torch.inference_mode():
        features = [detector((preprocess(c, find("styleganv")) + 1) / 2).numpy() for c in (real, fake)]
    assert wrong.value == pytest.approx(distance(*features, ddof=1), rel=1e-5)


def test_order_of_the_videos_does_not_matter_and_the_smaller_side_decides(detector, clips):
    real, fake = clips
    found = fvd(real, fake[:2])
    assert found.n == 2
    assert fvd(real[::-1], fake[1::-1]).value == pytest.approx(found.value, rel=1e-4)


def test_preprocessing_by_hand():
    clip = np.zeros((1, 1, 2, 2, 3), np.uint8)
    clip[0, 0, :, 1] = 255  # black to the left, white to the right
    plain = preprocess(clip, find("styleganv"))
    grid = preprocess(clip, find("tf"))
    assert plain.shape == grid.shape == (1, 3, 1, 224, 224) and plain.dtype == torch.float32
    x = torch.arange(224, dtype=torch.float32)
    centres = ((x + 0.5) * 2 / 224 - 0.5).clamp(0, 1)  # align_corners=False, ends clamped
    torch.testing.assert_close(plain[0, 1, 0, 100], centres * 2 - 1)
    torch.testing.assert_close(grid[0, 1, 0, 100], (x * 2 / 224).clamp(0, 1) * 2 - 1)
    torch.testing.assert_close(preprocess(clip, find("vidm-script")), (plain + 1) / 2)


RAMP = np.broadcast_to(np.array([0, 255], np.uint8)[None, None, :, None], (1, 2, 2, 3))  # black, white


def like(**fields):
    return own("mine", OwnProtocol(**fields))


def test_corners_and_antialias_by_hand():
    x = torch.arange(224, dtype=torch.float32)
    corners = preprocess(RAMP[None], like(kernel="bilinear-corners"))
    torch.testing.assert_close(corners[0, 0, 0, 7], x / 223 * 2 - 1)
    # Enlarging, antialias changes nothing; halving, it is a triangle over 4 pixels, where the plain one takes 2.
    wide = np.zeros((1, 1, 448, 448, 3), np.uint8)
    wide[:, :, :, 300] = 255
    plain, smooth = (preprocess(wide, like(kernel=k))[0, 0, 0, 5] for k in ("bilinear", "bilinear-antialias"))
    torch.testing.assert_close(
        preprocess(RAMP[None], like(kernel="bilinear-antialias")), preprocess(RAMP[None], like())
    )
    expected = -torch.ones(224)
    expected[150] = 0.0  # pixels 300 and 301, a half each
    torch.testing.assert_close(plain, expected)
    expected[149:151] = torch.tensor([1 / 8, 3 / 8]) * 2 - 1  # weights 1, 3, 3, 1 over 8
    torch.testing.assert_close(smooth, expected)


@pytest.mark.parametrize("order", ["whole", "short-side-then-crop", "crop-then-whole"])
@pytest.mark.parametrize("upright", [False, True])
def test_what_becomes_square(order, upright):
    """A picture twice as wide as high, its outer quarters white: only 'whole' still sees them."""
    wide = np.zeros((1, 1, 112, 224, 3), np.uint8)
    wide[:, :, :, :56] = wide[:, :, :, 168:] = 255
    clip = wide.swapaxes(2, 3) if upright else wide
    x = preprocess(clip, like(order=order))[0, 0, 0]
    row = x[:, 100] if upright else x[100]
    assert x.shape == (224, 224)
    assert (row[:50] == 1).all() and (row[100:120] == -1).all() if order == "whole" else (row[3:-3] == -1).all()


def test_cropping_first_and_last_differ_at_the_border():
    """At the edge of the crop: pixels beyond it are seen where the crop is last, and not where it is first."""
    clip = np.zeros((1, 1, 100, 200, 3), np.uint8)
    clip[:, :, :, :50] = 255
    last, first = (preprocess(clip, like(order=o)) for o in ("short-side-then-crop", "crop-then-whole"))
    assert last[0, 0, 0, 9, 0] > -1 and first[0, 0, 0, 9, 0] == -1
    torch.testing.assert_close(last[..., 10:-10], first[..., 10:-10])


@pytest.mark.parametrize("side", [(7, 9), (300, 240)])
def test_the_two_resizes_are_one_shifted(side):
    # On a plane both are exact away from the ends: they differ by half a pixel of the target, in source pixels.
    y, x = np.mgrid[: side[0], : side[1]]
    plane = np.broadcast_to((y * 0.4 + x * 0.5).astype(np.uint8)[..., None], (1, 1, *side, 3))
    grid = preprocess(np.ascontiguousarray(plane), find("tf"))
    assert grid[0, 0, 0, 0, 0].item() == pytest.approx(plane[0, 0, 0, 0, 0] / 127.5 - 1, abs=1e-6)


def test_full_size_clips_are_scaled_only():
    clip = np.random.default_rng(0).integers(0, 256, (1, 2, 224, 224, 3), np.uint8)
    expected = torch.from_numpy(clip).permute(0, 4, 1, 2, 3) / 127.5 - 1
    for name in ("styleganv", "tf"):
        torch.testing.assert_close(preprocess(clip, find(name)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("real", "message"),
    [
        (np.zeros((3, 16, 8, 8, 3), np.float32), "uint8"),
        (np.zeros((3, 3, 16, 8, 8), np.uint8), r"\(N,T,H,W,3\)"),
        (np.zeros((16, 8, 8, 3), np.uint8), r"\(N,T,H,W,3\)"),
        (np.zeros((1, 16, 8, 8, 3), np.uint8), "needs 2 or more"),
        (np.zeros((3, 15, 8, 8, 3), np.uint8), "3 more have fewer frames"),
        ([[1, 2]], "uint8"),
    ],
)
def test_bad_arrays_are_named(real, message):
    with pytest.raises(InputError, match=message) as caught:
        fvd(real, np.zeros((2, 16, 8, 8, 3), np.uint8))
    assert str(caught.value).startswith("real:") and "\n" not in str(caught.value)


def test_protocols_are_found_by_name():
    assert next(iter(PROTOCOLS)) == "styleganv"
    with pytest.raises(InputError, match="did you mean 'styleganv'"):
        find("stylegan-v")
    for name, p in PROTOCOLS.items():
        assert name in table() and p.facts()["name"] == name
