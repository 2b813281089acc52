"""One pass over the clips: each read once, a few in memory at a time, rows where they belong, batches apart."""

import weakref

import numpy as np
import pytest
import torch

from vidm.metrics import sources
from vidm.metrics.clipset import cut
from vidm.metrics.features import Job, Logits, Series, look_up, one_pass
from vidm.metrics.kept import Kept
from vidm.metrics.over_time import OverTime
from vidm.metrics.protocol import find, preprocess

STYLEGANV = find("styleganv")


def plain() -> Series:
    """One without a network."""
    return OverTime(STYLEGANV.frames, torch.device("cpu"))


class Window(np.ndarray):
    """An array that can be watched."""


def watched(count, alive):
    """Clips whose windows are counted while they live."""

    def read(k, start, frames, stride):
        window = np.full((frames, 2, 2, 3), k % 256, np.uint8).view(Window)
        alive.append(weakref.ref(window))
        return window

    clips = [sources.Clip(k, 16, f"{k:064x}", str(k), (2, 2)) for k in range(count)]
    return cut(sources.made("watched", "array", clips, read, ""), STYLEGANV)


class First(Series):
    """The first grey level of each window, and how many windows live."""

    facts = {"series": "first"}  # noqa: RUF012 - never changed

    def __init__(self, alive):
        super().__init__(16)
        self.alive, self.most = alive, 0

    def _compute(self, windows):
        self.most = max(self.most, sum(window() is not None for window in self.alive))
        return np.array([window[0, 0, 0, 0] for window in windows])


def test_memory_does_not_grow_with_the_clips():
    most = []
    for count in (20, 200):
        alive = []
        series = First(alive)
        one_pass([Job(watched(count, alive), list(range(count)), series)], None, lambda cost, note: None)
        most.append(series.most)
    assert most[0] == most[1] <= 12


def test_rows_are_those_that_were_asked_for():
    clips = watched(300, [])
    rows = [299, 3, 77]
    job = Job(clips, rows, First(()))
    assert job.work == 3
    one_pass([job], None, lambda cost, note: None)
    assert job.result.tolist() == [299 % 256, 3, 77] and job.work == 0


def test_what_is_kept_is_found_by_windows_and_series_only(tmp_path):
    clips = watched(6, [])

    def job(rows, series=None):
        return Job(clips, rows, series or plain())

    one_pass([job([0, 1])], tmp_path, lambda cost, note: None)
    again, others = (
        job([0, 1]),
        [job([1, 0]), job([0, 2]), job([0, 1], First(())), Job(clips, [0, 1], plain(), "cuda")],
    )
    look_up([again, *others], tmp_path)
    assert again.result is not None and all(other.result is None for other in others)
    (path,) = tmp_path.iterdir()
    assert path.suffix == ".h5"

    facts, arrays = {"data": "x"}, {"features": np.arange(6, dtype=np.float32).reshape(2, 3)}
    Kept(facts, tmp_path).write(arrays)
    np.testing.assert_array_equal(Kept(facts, tmp_path).read()["features"], arrays["features"])
    other = Kept({"data": "y"}, tmp_path)
    assert other.read() is None
    whole = Kept(facts, tmp_path).path.read_bytes()
    for damaged in (whole, b"", b"\0" * 100, whole[: len(whole) // 2]):  # not even a whole one under another's name
        other.path.write_bytes(damaged)
        assert other.read() is None
    Kept(facts, None).write(arrays)
    assert Kept(facts, None).read() is None


def test_batches_of_one_series_do_not_mix_with_anothers(detector):
    clips = np.random.default_rng(8).integers(0, 256, (2, 16, 224, 224, 3), np.uint8)
    source = sources.from_arrays(clips, "a")
    own = cut(source, STYLEGANV)

    def measured(*kinds):
        jobs = [Job(own, [0, 1], Logits(detector, STYLEGANV, kind)) for kind in kinds]
        one_pass(jobs, None, lambda cost, note: None)
        return [job.result for job in jobs]

    (alone,), (mixed, still) = measured("as they are"), measured("as they are", "static")
    np.testing.assert_array_equal(alone, mixed)
    windows = np.stack([own.read(k) for k in range(2)])
    with torch.inference_mode():
        expected = detector(preprocess(np.repeat(windows[:, :1], 16, 1), STYLEGANV)).numpy()
    np.testing.assert_allclose(still, expected, rtol=1e-4, atol=1e-4)


def test_shuffled_clips_have_the_same_frames_in_another_order(detector):
    series = Logits(detector, STYLEGANV, "shuffled")
    clip = np.random.default_rng(1).integers(0, 256, (16, 4, 4, 3), np.uint8)
    taken = series._taken(clip)
    assert not np.array_equal(taken, clip)
    np.testing.assert_array_equal(taken, series._taken(clip))
    assert {f.tobytes() for f in taken} == {f.tobytes() for f in clip}


def test_an_error_while_reading_is_the_passes():
    def read(*_):
        raise OSError("gone")

    clips = [sources.Clip(0, 16, "0" * 64, "a", (2, 2))]
    job = Job(cut(sources.made("a", "array", clips, read, ""), STYLEGANV), [0], plain())
    with pytest.raises(OSError, match="gone"):
        one_pass([job], None, lambda cost, note: None)
