"""What is computed of each clip: series of numbers, gathered in one pass over the frames, and kept on disk.

A series takes windows one by one, runs its network over batches of them, and ends as an array with a row for each
window. Several series share a pass: each clip is read once for all protocols and metrics. Each series has its own
batches, so that its numbers don't depend on what else is measured.
"""

from __future__ import annotations

import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidm.errors import InputError
from vidm.metrics.clipset import ClipSet
from vidm.metrics.i3d import I3D
from vidm.metrics.inception import Inception, frames_to_input
from vidm.metrics.kept import Kept
from vidm.metrics.protocol import Protocol, preprocess

BATCH = 64  # frames at a time, about 0.1 GB for each 16 in I3D; more is no faster on a CPU
BATCH_ON_GPU = 256
AHEAD = 4  # clips that are read while the networks run
KINDS = ("as they are", "static", "shuffled")
SHUFFLE_SEED = 0


class Series:
    """Batches of windows through `_compute`. facts: what the numbers depend on, beside the windows."""

    facts: dict[str, Any]
    cost = 1.0  # beside one window through I3D, for the progress bar

    def __init__(self, frames: int, device: torch.device | None = None) -> None:
        at_once = BATCH_ON_GPU if device is not None and device.type == "cuda" else BATCH
        self._batch = max(1, at_once // max(1, frames))
        self._waiting: list[tuple[int, np.ndarray]] = []
        self._rows: np.ndarray | None = None
        self._count = 0

    def add(self, row: int, window: np.ndarray) -> None:
        """Window number `row`, from 0 on in any order: (T,H,W,3) uint8."""
        self._waiting.append((row, self._taken(window)))
        if len(self._waiting) == self._batch:
            self._run()

    def result(self) -> np.ndarray:
        """An array with a row for each window, by their numbers."""
        if self._waiting:
            self._run()
        return self._rows[: self._count]

    def _run(self) -> None:
        rows, windows = zip(*self._waiting, strict=True)
        self._waiting = []
        found = self._compute(windows)
        # Into one array that doubles: a small one for each batch, left between large ones that come and go, would
        # keep their memory from being used again.
        self._count = max(self._count, max(rows) + 1)
        if self._rows is None or self._count > len(self._rows):
            more = np.empty((max(64, 2 * self._count), *found.shape[1:]), found.dtype)
            if self._rows is not None:
                more[: len(self._rows)] = self._rows
            self._rows = more
        self._rows[list(rows)] = found

    def _taken(self, window: np.ndarray) -> np.ndarray:
        """What waits for its batch."""
        return window

    def _compute(self, windows: tuple[np.ndarray, ...]) -> np.ndarray:
        raise NotImplementedError


class Logits(Series):
    """Detector features (N,400) float32 of clips as they are, of their first frame repeated, or with their frames
    shuffled in time, one seeded order for each clip."""

    def __init__(self, model: I3D, protocol: Protocol, kind: str = KINDS[0]) -> None:
        self.device = next(model.parameters()).device
        super().__init__(protocol.frames, self.device)
        self.model, self.protocol, self.kind = model, protocol, kind
        self.facts = {
            **protocol.input_facts(),
            "detector sha256": model.sha256,
            "precision": model.precision,
            "kind": kind if kind != "shuffled" else f"shuffled {SHUFFLE_SEED}",
        }

    def _taken(self, window: np.ndarray) -> np.ndarray:
        if self.kind == "static":
            return window[:1]
        if self.kind == "shuffled":
            return window[self._order(window)]
        return window

    @staticmethod
    def _order(window: np.ndarray) -> np.ndarray:
        """An order of the frames that only the clip decides."""
        seeds = [SHUFFLE_SEED, zlib.crc32(np.ascontiguousarray(window))]
        return np.random.default_rng(seeds).permutation(len(window))

    @torch.inference_mode()
    def _compute(self, windows: tuple[np.ndarray, ...]) -> np.ndarray:
        x = preprocess(_on(windows, self.device), self.protocol)
        if self.kind == "static":
            x = x.expand(-1, -1, self.protocol.frames, -1, -1)
        return self.model(x).cpu().numpy()


class Pooled(Series):
    """Inception features (N,k,2048) float32 of k frames of each clip, spread evenly over it. InputError above all."""

    def __init__(self, model: Inception, frames: int, per_clip: int) -> None:
        if per_clip > frames:
            raise InputError(f"FID of {per_clip} frames a clip: its window has {frames}; nearest: {frames}")
        self.device = next(model.parameters()).device
        super().__init__(per_clip, self.device)
        self.model = model
        self.chosen = np.linspace(0, frames - 1, per_clip).round().astype(int)
        self.facts = {"inception": model.sha256, "frames": self.chosen.tolist()}
        self.cost = 0.3 * per_clip

    def _taken(self, window: np.ndarray) -> np.ndarray:
        return window[self.chosen]

    @torch.inference_mode()
    def _compute(self, windows: tuple[np.ndarray, ...]) -> np.ndarray:
        x = frames_to_input(_on(windows, self.device).flatten(0, 1))
        features = torch.cat([self.model(part) for part in x.split(16)])
        return features.unflatten(0, (len(windows), -1)).cpu().numpy()


class Chances(Series):
    """Class probabilities (N,K) float64 of a classifier of the user's: clip (B,3,T,H,W) in [-1,1] -> logits (B,K)."""

    def __init__(self, model: Any, sha256: str, frames: int, device: torch.device) -> None:
        super().__init__(frames, device)
        self.model, self.device = model, device
        self.facts = {"classifier": sha256}

    @torch.inference_mode()
    def _compute(self, windows: tuple[np.ndarray, ...]) -> np.ndarray:
        x = _on(windows, self.device).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        return self.model(x).double().softmax(1).cpu().numpy()


@dataclass
class Job:
    """A series over some windows of a set. `result` is there after `one_pass`: a row for each of `rows`."""

    clips: ClipSet
    rows: list[int]
    series: Series
    device: str = "cpu"
    result: np.ndarray | None = field(default=None, repr=False)

    @property
    def work(self) -> float:
        return 0.0 if self.result is not None else self.series.cost * len(self.rows)

    def kept(self, cache: Path | None) -> Kept:
        """By what the windows are, what is computed, and the arithmetic that decides the last digits."""
        return Kept(
            {
                "windows": self.clips.digest(self.rows),
                "series": self.series.facts,
                "torch": torch.__version__,
                "device": self.device,
                "threads": torch.get_num_threads(),
            },
            cache,
        )


def look_up(jobs: list[Job], cache: Path | None) -> None:
    """Take from the cache what is there."""
    for job in jobs:
        found = job.kept(cache).read()
        if found is not None:
            job.result = found["rows"]


def one_pass(jobs: list[Job], cache: Path | None, advance: Callable[[float, str], None]) -> None:
    """Run what has no result yet: every clip is read once, in the order of its content, for all jobs."""
    todo = [job for job in jobs if job.result is None]
    for source in {id(job.clips.source): job.clips.source for job in todo}.values():
        own = [job for job in todo if job.clips.source is source]
        wanted = defaultdict(list)
        for job in own:
            for row, k in enumerate(job.rows):
                clip, start = job.clips.windows[k]
                wanted[clip.hash, clip.index].append((start, row, k, job))
        for asked, windows in _ahead([wanted[key] for key in sorted(wanted)]):
            for (_, row, _, job), window in zip(asked, windows, strict=True):
                job.series.add(row, window)
            advance(sum(job.series.cost for *_, job in asked), source.name)
    for job in todo:
        job.result = job.series.result()
        job.kept(cache).write({"rows": job.result})


def _ahead(clips: list[list[tuple]]) -> Iterator[tuple[list[tuple], list[np.ndarray]]]:
    """What is asked of each clip, and its windows, each read once; the next clips are read in the meantime."""

    def read(asked: list[tuple]) -> list[np.ndarray]:
        once: dict[tuple, np.ndarray] = {}
        for start, _, k, job in asked:
            window = (start, job.clips.protocol.frames, job.clips.protocol.stride)
            if window not in once:
                once[window] = job.clips.read(k)
        return [once[start, job.clips.protocol.frames, job.clips.protocol.stride] for start, _, _, job in asked]

    with ThreadPoolExecutor(1) as pool:
        waiting: deque = deque()
        for asked in clips:
            waiting.append((asked, pool.submit(read, asked)))
            if len(waiting) > AHEAD:
                first, done = waiting.popleft()
                yield first, done.result()
        while waiting:
            first, done = waiting.popleft()
            yield first, done.result()


def _on(windows: tuple[np.ndarray, ...], device: torch.device) -> Tensor:
    """(B,T,H,W,3) uint8 on the device: a quarter of the bytes of floats to carry."""
    return torch.from_numpy(np.stack(windows)).to(device, non_blocking=True)
