"""Frames for training and metrics, drawn without state: item k of step s is a function of (seed, s, k) alone.

    content   (frame)                     one frame of one clip
    motion    (first, previous, target)   x_0, x_{n-1}, x_n of a window of N frames, n uniform in 1..N-1
    metrics   (window)                    windows by a protocol's rule; a random place is fixed by the clip's content

An item also brings what the loss needs by chance (t, noise, conditioning noise), so that any number of workers,
ranks or restarts trains on the same numbers. Clips are counted in the order of their content hashes: neither
their names nor their order in the file matter.

Shapes: frames and noise are (3, H, W) float32, frames in [-1, 1] as x / 127.5 - 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vidm.data.store import FrameStore
from vidm.errors import InputError

Levels = int | Sequence[float]
IN_MEMORY = 2 << 30  # bytes of frames that are kept in memory rather than read window by window


def item_rng(seed: int, step: int, k: int) -> np.random.Generator:
    """The source of everything random in item k of global step `step`. All at least 0."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step, k])))


def scaled(frames: np.ndarray) -> np.ndarray:
    """(..., H, W, 3) uint8 -> (..., 3, H, W) float32 in [-1, 1]."""
    return np.ascontiguousarray(np.moveaxis(frames, -1, -3), dtype=np.float32) / np.float32(127.5) - np.float32(1)


def _by_content(store: FrameStore, split: str | None, frames: int) -> list[int]:
    """Clips of a split with at least `frames` frames, by content hash. Raises InputError where none is left."""
    inside = store.indices(split)
    if not inside:
        raise InputError(
            f"{store.path}: no clip of split '{split}'; it has {', '.join(sorted(set(store.splits))) or 'none'}"
        )
    kept = [i for i in inside if store.length(i) >= frames]
    if not kept:
        longest = max(store.length(i) for i in inside)
        raise InputError(
            f"{store.path}: no clip of split '{split}' has {frames} frames, the longest {longest}; "
            "ask for fewer frames or a smaller stride"
        )
    return sorted(kept, key=lambda i: (store.hashes[i], store.sources[i]))


class _Draw:
    """What both draws share: clips, frames in memory where they fit, the order of what is drawn."""

    frames = 1

    def __init__(
        self, store: FrameStore, split: str = "train", flip: bool = True, seed: int = 0, levels: Levels = 1000
    ) -> None:
        self.store, self.flip, self.seed = store, flip, seed
        self._levels = levels if isinstance(levels, int) else np.cumsum(levels)
        self.clips = _by_content(store, split, self.frames)
        self.class_names = sorted(set(store.classes))
        self._class = {name: k for k, name in enumerate(self.class_names)}
        size = sum(store.length(i) for i in self.clips) * store.shape[0] * store.shape[1] * 3
        self._keep = size <= IN_MEMORY
        self._memory: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_memory": {}}

    def load(self) -> None:
        """Read the clips into memory, once, where they fit."""
        if self._keep and not self._memory:
            self._memory = {i: self.store.read(i) for i in self.clips}

    def _window(self, rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """A clip, uniform over clips, and `self.frames` frames from a uniform place: (T, H, W, 3) uint8."""
        self.load()
        i = self.clips[rng.integers(len(self.clips))]
        start = int(rng.integers(self.store.length(i) - self.frames + 1))
        if i in self._memory:
            return i, self._memory[i][start : start + self.frames]
        return i, self.store.read(i, start, self.frames)

    def _chance(self, rng: np.random.Generator) -> dict[str, Any]:
        """t and standard normal noise (3, H, W)."""
        t = rng.integers(self._levels) if isinstance(self._levels, int) else self._by_level(rng.random())
        return {"t": t, "noise": rng.standard_normal((3, *self.store.shape), np.float32)}

    def _by_level(self, uniform: float) -> np.int64:
        """The inverse of t's distribution function at a number in [0, 1)."""
        return np.int64(min(np.searchsorted(self._levels, uniform, side="right"), len(self._levels) - 1))

    def item(self, step: int, k: int) -> dict[str, Any]:
        """Item k of a step's batch: what a subclass draws."""
        raise NotImplementedError


class FrameDraw(_Draw):
    """Single frames, for content training: clip uniform over clips, frame uniform, mirrored by 1/2.

    `item(step, k)` -> frame, noise (3, H, W) float32; t, clip, cls (index into `class_names`) int64; flipped bool.
    levels: how many steps the diffusion has, drawn uniformly; or the probability of each. Raises InputError where the
    split has no clip.
    """

    def item(self, step: int, k: int) -> dict[str, Any]:
        rng = item_rng(self.seed, step, k)
        i, window = self._window(rng)
        flipped = self.flip and bool(rng.integers(2))
        frame = scaled(window[0, :, ::-1] if flipped else window[0])
        return {"frame": frame, **self._chance(rng), **_facts(i, self._class[self.store.classes[i]], flipped)}


class TripletDraw(_Draw):
    """First, previous and n-th frame of a window of N = `frames`, for motion training (Algorithm 1).

    `item(step, k)` -> first, previous, target, noise, previous_noise (3, H, W) float32; level float32 in [0, 1);
    n (1..N-1), t, clip, cls, stride int64; flipped bool. `stride` is that of the clip: source frames from one
    stored frame to the next. All three frames are mirrored or none. `level` and `previous_noise` are for
    conditioning augmentation and are drawn whether it is used or not.

    first_share: of the items that have n = 1, beside those that n's own draw gives it.
    history: how many frames before `previous` come along as `history` (history, 3, H, W): frames n-2, n-3, ...; frame 0
    stands in for those before it. own: training on own outputs, as {share, start (step), frames}: an item then has
    `depth`, the number of frames before n that the network is to make itself, 0 of most, and `own_noise`
    (frames, 3, H, W) for them.
    Raises InputError where the split has no clip of N frames.
    """

    def __init__(
        self,
        store: FrameStore,
        frames: int,
        split: str = "train",
        flip: bool = True,
        seed: int = 0,
        levels: Levels = 1000,
        first_share: float = 0.0,
        history: int = 0,
        own: Own | None = None,
    ) -> None:
        if frames < 2:
            raise ValueError(f"frames = {frames}: a triplet needs 2 at least")
        self.frames, self.first_share, self.history, self.own = frames, first_share, history, own
        super().__init__(store, split, flip, seed, levels)

    def window(self, k: int) -> np.ndarray:
        """The k-th of some windows for statistics, whole: (N, 3, H, W) float32, the same for every seed."""
        return scaled(self._window(item_rng(0, 0, k))[1])

    def item(self, step: int, k: int) -> dict[str, Any]:
        rng = item_rng(self.seed, step, k)
        i, window = self._window(rng)
        n = rng.integers(1, self.frames)
        if self.first_share and rng.random() < self.first_share:
            n = np.int64(1)
        flipped = self.flip and bool(rng.integers(2))
        before = [max(0, n - 2 - k) for k in range(self.history)]
        chosen = window[[0, n - 1, n, *before]]
        first, previous, target, *history = scaled(chosen[:, :, ::-1] if flipped else chosen)
        chance = self._chance(rng)
        more = {"history": np.stack(history)} if history else {}
        item = {
            "first": first,
            "previous": previous,
            "target": target,
            **more,
            "n": n,
            "stride": np.int64(self.store.strides[i]),
            **chance,
            "level": np.float32(rng.random(dtype=np.float32)),
            "previous_noise": rng.standard_normal(first.shape, np.float32),
            **_facts(i, self._class[self.store.classes[i]], flipped),
        }
        if self.own is not None:
            chosen = rng.random() < self.own.share and step >= self.own.start
            depth = rng.integers(1, self.own.frames + 1)
            item["depth"] = np.int64(min(depth, n - 1) if chosen else 0)
            item["own_noise"] = rng.standard_normal((self.own.frames, *first.shape), np.float32)
        return item


class Own(NamedTuple):
    """Which items are trained on own outputs: this share from step `start` on, 1..frames frames deep."""

    share: float
    start: int
    frames: int


def _facts(clip: int, cls: int, flipped: bool) -> dict[str, Any]:
    return {"clip": np.int64(clip), "cls": np.int64(cls), "flipped": np.bool_(flipped)}


class _Items(Dataset):
    """A draw as torch's map-style data set; its keys are (step, k)."""

    def __init__(self, draw: _Draw) -> None:
        self.draw = draw

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        return self.draw.item(*key)


class _Keys:
    """The keys of each step's items: k = rank, rank + world, ..."""

    def __init__(self, batch: int, start: int, stop: int, rank: int, world: int) -> None:
        self.steps, self.ks = range(start, stop), range(rank, batch, world)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return ([(step, k) for k in self.ks] for step in self.steps)


def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Items -> one dictionary of tensors with a first axis of items; dtypes stay."""
    return {key: torch.from_numpy(np.stack([item[key] for item in items])) for key in items[0]}


def batches(
    draw: FrameDraw | TripletDraw,
    batch: int,
    start: int,
    stop: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    pinned: bool = False,
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of the global steps start..stop-1: dictionaries of tensors, `batch / world` items each.

    `batch` counts the items of all ranks. The same numbers for any number of workers, and together for any
    number of ranks. Touches no global random state. pinned: page-locked, so that a copy to a GPU waits for
    nothing; with workers by a thread of the loader, and ahead of time.
    """
    if batch % world:
        raise ValueError(f"batch = {batch} is not a multiple of {world} ranks")
    draw.load()
    draw.store.close()  # a forked worker must not inherit an open file
    loader = DataLoader(
        _Items(draw),
        batch_sampler=_Keys(batch, start, stop, rank, world),
        num_workers=workers,
        collate_fn=collate,
        generator=torch.Generator(),  # else DataLoader draws a seed from the global one
        pin_memory=pinned,
    )
    yield from loader


def windows(
    store: FrameStore,
    split: str | None,
    frames: int,
    start_rule: Literal["random", "first", "every", "phases"] = "random",
    stride: int = 1,
    seed: int = 0,
) -> list[tuple[int, int]]:
    """Windows (clip, start) of the clips that are long enough: `frames` frames, every `stride`-th.

        random  one a clip, its start uniform, fixed by `seed` and the clip's content
        first   one a clip, from frame 0
        every   all of a clip that do not overlap, from frame 0
        phases  DIGAN's: of each block of frames * stride frames, the `stride` windows that begin at its first ones

    The list is in the order of the content hashes, so that its beginning is a fair sample; a clip's own windows
    stay together. split None: all clips. Raises InputError where no clip is long enough.
    """
    if start_rule not in ("random", "first", "every", "phases"):
        raise ValueError(f"start_rule = {start_rule!r}; 'random', 'first', 'every' or 'phases'")
    span = frames * stride if start_rule == "phases" else (frames - 1) * stride + 1
    found = []
    for i in _by_content(store, split, span):
        if start_rule == "random":
            rng = np.random.default_rng([seed, int(store.hashes[i][:16], 16)])
            found.append((i, int(rng.integers(store.length(i) - span + 1))))
            continue
        blocks = range(0, store.length(i) - span + 1, span) if start_rule != "first" else [0]
        phases = stride if start_rule == "phases" else 1
        found += [(i, block + phase) for block in blocks for phase in range(phases)]
    return found


def read_windows(
    store: FrameStore, windows: list[tuple[int, int]], frames: int, stride: int = 1
) -> Iterator[np.ndarray]:
    """The frames of each window: (T, H, W, 3) uint8."""
    return (store.read(i, start, frames, stride) for i, start in windows)
