"""Sharpness, contrast, mean and motion over frames: identities that hold whatever the clips are, and sums by hand."""

import json

import numpy as np
import pytest
import torch

from vidm.metrics.over_time import KINDS, OverTime, cautions, last, motion, ratios

CPU = torch.device("cpu")


def measured(clips) -> np.ndarray:
    series = OverTime(len(clips[0]), CPU)
    for row, clip in enumerate(clips):
        series.add(row, clip)
    return series.result()


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    """Grey levels that can be doubled: 64 to 127."""
    return np.random.default_rng(0).integers(64, 128, (5, 6, 8, 10, 3), np.uint8)


def test_the_definitions(clips):
    """Written out pixel by pixel, in the order of the frames."""
    found = measured(clips)
    assert found.shape == (5, 6, 4) and found.dtype == np.float64
    x = clips.astype(float)
    mixed = x[:, :, :-1, :-1] - x[:, :, 1:, :-1] - x[:, :, :-1, 1:] + x[:, :, 1:, 1:]
    grey = x.mean(-1)
    np.testing.assert_allclose(found[..., 0], (mixed**2).mean((2, 3, 4)), rtol=1e-12)
    np.testing.assert_allclose(found[..., 1], grey.std((2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found[..., 2], grey.mean((2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found[:, 1:, 3], np.abs(np.diff(x, axis=1)).mean((2, 3, 4)), rtol=1e-12)
    assert not found[:, 0, 3].any() and motion(found) == pytest.approx(np.abs(np.diff(x, axis=1)).mean(), rel=1e-12)


def test_steps_do_not_wrap():
    clip = np.zeros((3, 2, 2, 3), np.uint8)
    clip[1] = 250  # up by 250, down by 240: uint8 would wrap
    clip[2] = 10
    assert measured([clip])[0, :, 3].tolist() == [0, 250, 240]


def test_no_digit_depends_on_the_batch(clips):
    alone = np.concatenate([measured([clip]) for clip in clips])
    assert np.array_equal(alone, measured(clips))


def test_clips_over_themselves_are_one(clips):
    """Exactly; in another order to rounding. Motion has no frame 0."""
    found = ratios(measured(clips), measured(clips))
    assert found == dict.fromkeys(KINDS[:3], [1.0] * 6) | {"motion": [None, *[1.0] * 5]} and cautions(found) == []
    turned = ratios(measured(clips), measured(clips[::-1]))
    for kind in KINDS:
        assert turned[kind][1:] == pytest.approx([1.0] * 5, abs=1e-12)


def test_twice_the_contrast_is_two(clips):
    """About 64: contrast and motion double, the energy of the differences is four times as much."""
    found = ratios(measured(2 * (clips - 64)), measured(clips - 64))
    wanted = {"sharpness": 4.0, "contrast": 2.0, "mean": 2.0, "motion": 2.0}
    for kind, ratio in wanted.items():
        assert found[kind][1:] == pytest.approx([ratio] * 5, rel=1e-12)
    brighter = ratios(measured(clips + 64), measured(clips))
    assert brighter["contrast"] == pytest.approx([1.0] * 6, rel=1e-12) and min(brighter["mean"]) > 1.5


def test_blur_is_less_sharp_and_a_frozen_clip_does_not_move(clips):
    blurred = np.stack([clips, np.roll(clips, 1, 2)]).mean(0).astype(np.uint8)
    found = ratios(measured(blurred), measured(clips))
    assert max(found["sharpness"]) < 0.7 and min(found["mean"]) > 0.95
    frozen = ratios(measured(np.repeat(clips[:, :1], 6, 1)), measured(clips))
    assert frozen["motion"] == [None, *[0.0] * 5] and frozen["sharpness"][0] == 1.0


def test_what_is_undefined_is_null(clips):
    """Over real clips that are black or stand still; the file stays JSON."""
    found = ratios(measured(clips), measured(np.zeros_like(clips)))
    assert json.loads(json.dumps(found, allow_nan=False)) == dict.fromkeys(KINDS, [None] * 6)
    assert last(found) == (5, {}) and cautions(found) == []
    assert ratios(measured(clips[:, :, :1]), measured(clips[:, :, :1]))["sharpness"] == [None] * 6


def test_a_caution_names_quantity_frame_and_value():
    found = {"sharpness": [1, 0.41], "contrast": [0.2, 0.7], "mean": [1, 1.5], "motion": [None, 1.4]}
    assert cautions(found) == [
        "sharpness of frame 1 is 0.41 of that of the test clips",
        "mean grey level of frame 1 is 1.50 times that of the test clips",
    ]
