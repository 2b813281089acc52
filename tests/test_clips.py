"""What is drawn for training: its distribution, and that it depends on (seed, step, k) alone."""

import itertools

import numpy as np
import pytest
import torch

from vidm.data import clips
from vidm.data.clips import FrameDraw, TripletDraw, batches, item_rng, read_windows, scaled, windows
from vidm.data.store import FrameStore, StoreWriter
from vidm.errors import InputError

LENGTHS = (9, 6, 12, 4)


def frame(clip, n):
    """A frame that tells its clip, its number and its direction: red = clip, green = n, blue = column."""
    image = np.zeros((4, 6, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 10 * clip, 10 * n, np.arange(6)
    return image


def write(path, order=range(4), split="train"):
    with StoreWriter(path, 4, 6, {}, "raw") as writer:
        for i in order:
            data = np.stack([frame(i, n) for n in range(LENGTHS[i])])
            writer.add(data, fps=10, split="test" if i == 3 else split, source=f"{i}", cls="ab"[i % 2])
    return FrameStore(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write(tmp_path_factory.mktemp("clips") / "s.h5")


def told(image):
    """(3, 4, 6) float32 in [-1, 1] -> clip, n, mirrored; the inverse of `frame`."""
    pixels = np.asarray((np.asarray(image) + 1) * 127.5).round().astype(int)
    blue = pixels[2, 0]
    assert (pixels[:2] == pixels[:2, :1, :1]).all()
    assert blue.tolist() in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0])
    return pixels[0, 0, 0] // 10, pixels[1, 0, 0] // 10, bool(blue[0])


def test_scaled_reaches_both_ends():
    found = scaled(np.array([[[0, 127, 255]]], np.uint8))
    assert found.shape == (3, 1, 1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.ravel(), [-1, 127 / 127.5 - 1, 1], atol=1e-7)


def test_frames_are_uniform_over_clips_then_frames(store):
    draw = FrameDraw(store, seed=3)
    items = [draw.item(step, k) for step, k in itertools.product(range(300), range(10))]
    found = [told(item["frame"]) for item in items]
    share = np.bincount([clip for clip, _, _ in found], minlength=4) / len(found)
    np.testing.assert_allclose(share, [1 / 3, 1 / 3, 1 / 3, 0], atol=0.03)  # not by length; clip 3 is test
    in_longest = np.bincount([n for clip, n, _ in found if clip == 2], minlength=12)
    assert in_longest.shape == (12,)
    assert in_longest.min() > 0.6 * in_longest.mean()
    assert abs(np.mean([mirrored for _, _, mirrored in found]) - 0.5) < 0.03
    assert [bool(item["flipped"]) for item in items] == [mirrored for _, _, mirrored in found]
    assert [draw.class_names[item["cls"]] for item in items[:50]] == ["ab"[clip % 2] for clip, _, _ in found[:50]]
    assert not any(FrameDraw(store, flip=False).item(0, k)["flipped"] for k in range(50))


def test_triplets(store):
    draw = TripletDraw(store, frames=6, seed=3, levels=50)
    items = [draw.item(step, k) for step, k in itertools.product(range(300), range(10))]
    starts = {0: set(), 1: set(), 2: set()}
    for item in items:
        (clip, a, flip), (clip_b, b, flip_b), (clip_c, c, flip_c) = (
            told(item[key]) for key in ("first", "previous", "target")
        )
        n = item["n"]
        assert clip == clip_b == clip_c
        assert flip == flip_b == flip_c == item["flipped"]
        assert (b - a, c - a) == (n - 1, n)
        starts[int(clip)].add(int(a))
    assert starts == {0: {0, 1, 2, 3}, 1: {0}, 2: set(range(7))}
    counts = np.bincount([item["n"] for item in items], minlength=6)
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:] / len(items), 0.2, atol=0.03)
    ts = [item["t"] for item in items]
    assert (min(ts), max(ts)) == (0, 49)
    levels = np.array([item["level"] for item in items])
    assert abs(levels.mean() - 0.5) < 0.02
    for key in ("noise", "previous_noise"):
        noise = np.stack([item[key] for item in items])
        assert noise.dtype == np.float32
        assert abs(noise.mean()) < 0.01
        assert abs(noise.std() - 1) < 0.01
    both = np.stack([[item["noise"].ravel(), item["previous_noise"].ravel()] for item in items])
    assert abs(np.mean(both[:, 0] * both[:, 1])) < 0.01, "the two noises are independent"


def test_clips_too_short_or_missing(store):
    assert {int(TripletDraw(store, frames=10).item(s, 0)["clip"]) for s in range(40)} == {2}
    with pytest.raises(InputError, match="has 13 frames, the longest 12"):
        TripletDraw(store, frames=13)
    with pytest.raises(InputError, match="no clip of split 'val'; it has test, train"):
        FrameDraw(store, split="val")


def test_items_depend_on_seed_step_and_k_alone(store, tmp_path):
    draw = TripletDraw(store, frames=4, seed=1)
    keys = [(0, 0), (5, 3), (3, 5), (0, 1), (1, 0)]
    items = {key: draw.item(*key) for key in keys}
    again = TripletDraw(write(tmp_path / "other.h5", order=[3, 1, 2, 0]), frames=4, seed=1)
    for key in reversed(keys):
        other = again.item(*key)  # another order of clips in the file, another order of asking
        for name in items[key].keys() - {"clip"}:
            np.testing.assert_array_equal(items[key][name], other[name])
    noises = {items[key]["noise"].tobytes() for key in keys} | {
        TripletDraw(store, frames=4, seed=2).item(0, 0)["noise"].tobytes()
    }
    assert len(noises) == len(keys) + 1
    assert item_rng(1, 2, 3).random() != item_rng(1, 3, 2).random()


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_batches_are_the_same_for_any_workers_ranks_and_memory(store, monkeypatch):
    draw = TripletDraw(store, frames=4, seed=1)
    one = list(batches(draw, 4, 2, 6))
    assert len(one) == 4
    assert one[0]["first"].shape == (4, 3, 4, 6)
    assert {key: one[0][key].dtype for key in ("first", "noise", "level", "t", "n")} == {
        "first": torch.float32,
        "noise": torch.float32,
        "level": torch.float32,
        "t": torch.int64,
        "n": torch.int64,
    }
    state = torch.random.get_rng_state()
    for a, b in zip(one, batches(draw, 4, 2, 6, workers=2), strict=True):
        same(a, b)
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator is left alone"
    for a, b in zip(one[2:], batches(draw, 4, 4, 6), strict=True):  # resumed at step 4
        same(a, b)
    ranks = [list(batches(draw, 4, 2, 6, rank=r, world=2)) for r in range(2)]
    for step, whole in enumerate(one):
        for key, value in whole.items():
            torch.testing.assert_close(value[0::2], ranks[0][step][key], rtol=0, atol=0)
            torch.testing.assert_close(value[1::2], ranks[1][step][key], rtol=0, atol=0)
    monkeypatch.setattr(clips, "IN_MEMORY", 0)
    from_disk = TripletDraw(store, frames=4, seed=1)
    for a, b in zip(one, batches(from_disk, 4, 2, 6, workers=1), strict=True):
        same(a, b)
    assert from_disk._memory == {}
    with pytest.raises(ValueError, match="not a multiple"):
        next(batches(draw, 5, 0, 1, world=2))


def test_windows(store, tmp_path):
    found = windows(store, "train", frames=3, stride=2, seed=1)
    assert sorted(clip for clip, _ in found) == [0, 1, 2]
    for (clip, start), window in zip(found, read_windows(store, found, 3, 2), strict=True):
        np.testing.assert_array_equal(window, np.stack([frame(clip, start + 2 * k) for k in range(3)]))
    other = write(tmp_path / "other.h5", order=[2, 0, 3, 1])
    again = windows(other, "train", frames=3, stride=2, seed=1)
    assert [(store.sources[i], s) for i, s in found] == [(other.sources[i], s) for i, s in again]
    starts = {windows(store, None, 3, seed=s)[0][1] for s in range(60)}
    assert len(starts) > 2
    assert {start for _, start in windows(store, "train", 3, "first")} == {0}
    assert len(windows(store, None, 5, stride=2)) == 2  # spans 9 frames: clips 0 and 2
    with pytest.raises(InputError, match="13 frames"):
        windows(store, "train", 7, stride=2)


def test_windows_that_do_not_overlap_and_phases(store):
    """Clips of 9, 6 and 12 frames; what is left over is not used."""
    starts = {}
    for rule, stride in (("first", 2), ("every", 1), ("every", 2), ("phases", 2), ("phases", 3)):
        found = windows(store, "train", 3, rule, stride)
        starts[rule, stride] = {k: [s for i, s in found if store.sources[i] == k] for k in "012"}
        used = [(i, s + stride * n) for i, s in found for n in range(3)]
        assert len(used) == len(set(used)), "no frame twice"
        assert all(n < store.length(i) for i, n in used)
        assert list(dict.fromkeys(i for i, _ in found)) == sorted(
            {i for i, _ in found}, key=lambda i: store.hashes[i]
        ), "in the order of the content"
    assert starts["first", 2] == {"0": [0], "1": [0], "2": [0]}
    assert starts["every", 1] == {"0": [0, 3, 6], "1": [0, 3], "2": [0, 3, 6, 9]}
    assert starts["every", 2] == {"0": [0], "1": [0], "2": [0, 5]}
    assert starts["phases", 2] == {"0": [0, 1], "1": [0, 1], "2": [0, 1, 6, 7]}
    assert starts["phases", 3] == {"0": [0, 1, 2], "1": [], "2": [0, 1, 2]}
    # As DIGAN cuts a video: blocks of frames * stride, each reshaped to (frames, stride), a window for each phase.
    clip = store.sources.index("2")
    blocks = store.read(clip).reshape(2, 3, 2, *store.shape, 3)
    expected = [blocks[b, :, phase] for b in range(2) for phase in range(2)]
    mine = [w for w in windows(store, "train", 3, "phases", 2) if w[0] == clip]
    np.testing.assert_array_equal(np.stack(list(read_windows(store, mine, 3, 2))), np.stack(expected))


def test_triplets_tell_the_stride_of_their_clip(tmp_path):
    with StoreWriter(tmp_path / "s.h5", 4, 6, {}, "raw") as writer:
        for i, stride in enumerate((1, 3)):
            data = np.stack([frame(i, n) for n in range(6)])
            writer.add(data, fps=10, stride=stride, split="train", source=f"{i}")
    draw = TripletDraw(FrameStore(tmp_path / "s.h5"), frames=3)
    items = [draw.item(0, k) for k in range(40)]
    assert {(int(item["clip"]), int(item["stride"])) for item in items} == {(0, 1), (1, 3)}
    assert next(batches(draw, 4, 0, 1))["stride"].dtype == torch.int64
