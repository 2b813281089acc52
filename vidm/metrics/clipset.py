"""Sets of windows to measure: a source, cut as a protocol says.

Where a protocol wants fewer windows than there are, and where in a longer video its window lies, depend on the seed
and the clips' content, not on names (unless the protocol says so), so that the same videos give the same number from
any kind of source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidm.data.store import FrameStore
from vidm.errors import InputError
from vidm.metrics import folders, sources
from vidm.metrics.sources import Clip, Source
from vidm.protocols import Protocol

Window = tuple[Clip, int]
KINDS = "a .h5, .npy or .npz file, or a folder of videos or of frame folders"


@dataclass(frozen=True)
class ClipSet:
    """Windows of a protocol, in the order of its choice; `read(k)` is (T,H,W,3) uint8, k below `len`.

    short: videos left away because they have fewer frames than a window spans.
    """

    source: Source
    protocol: Protocol
    windows: list[Window]
    short: int

    @property
    def name(self) -> str:
        return self.source.name

    def __len__(self) -> int:
        return len(self.windows)

    def read(self, k: int) -> np.ndarray:
        clip, start = self.windows[k]
        return self.source.read(clip.index, start, self.protocol.frames, self.protocol.stride)

    def digest(self, rows: list[int]) -> str:
        """sha256 (hex) of the content of these windows, in this order."""
        every = f"{self.protocol.frames} {self.protocol.stride}"
        lines = [f"{self.windows[k][0].hash} {self.windows[k][1]} {every}\n" for k in rows]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def open_source(
    path: Path, protocols: list[Protocol], split: str | None = None, side: int | None = None, cache: Path | None = None
) -> Source:
    """The videos of a .h5 frame store, a .npy or .npz array (N,T,H,W,3) uint8, or a folder. Raises InputError.

    `split` is taken of a store that has it. side: square that the videos of a folder are scaled and cropped to.
    """
    path = Path(path)
    if path.is_dir():
        return folders.from_folder(path, lambda length, digest: _needed(length, digest, protocols), side, cache)
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder; give {KINDS}")
    if path.suffix in {".h5", ".hdf5"}:
        return sources.from_store(FrameStore(path), split)
    if path.suffix in {".npy", ".npz"}:
        return sources.from_array_file(path)
    raise InputError(f"{path}: not {KINDS}")


def cut(source: Source, protocol: Protocol) -> ClipSet:
    """The windows of every clip that is long enough, those that the protocol takes first at the front."""
    windows, short = [], 0
    by_name = protocol.choice == "by name"
    for clip in sorted(source.clips, key=lambda c: (c.name,) if by_name else (c.hash, c.name)):
        starts = _starts(clip.length, clip.hash, protocol)
        short += not starts
        windows += [(clip, start) for start in starts]
    return ClipSet(source, protocol, windows, short)


def drawn(clips: ClipSet, n: int) -> list[list[int]]:
    """The windows of each trial: with one trial the first n, with several n at random, seeded."""
    p = clips.protocol
    if p.trials == 1:
        return [list(range(n))]
    rngs = [np.random.default_rng([p.seed, trial]) for trial in range(p.trials)]
    return [sorted(rng.permutation(len(clips))[:n].tolist()) for rng in rngs]


def held_out(clips: ClipSet, n: int, beside: Sequence[int] = ()) -> list[int]:
    """The n windows of the baselines, fewer where there are no more; none is of a clip with a window in `beside`.

    The first ones; where clips have several windows n at random, seeded as those of a first trial: the first n would
    be all windows of a few clips.
    """
    used = {clips.windows[k][0].index for k in beside}
    rows = [k for k, (clip, _) in enumerate(clips.windows) if clip.index not in used]
    if len({clips.windows[k][0].index for k in rows}) < len(rows):
        rows = np.random.default_rng([clips.protocol.seed, 0]).permutation(rows).tolist()
    return sorted(rows[:n])


def _starts(length: int, digest: str, protocol: Protocol) -> list[int]:
    free = length - protocol.span + 1
    if free <= 0:
        return []
    if protocol.windows == "all, non-overlapping":
        return list(range(0, free, protocol.span))
    if protocol.start == "first":
        return [0]
    return [int(np.random.default_rng([protocol.seed, int(digest[:16], 16)]).integers(free))]


def _needed(length: int, digest: str, protocols: list[Protocol]) -> tuple[int, int]:
    """First and last + 1 of the frames that any of the protocols reads."""
    spans = [(start, start + p.span) for p in protocols for start in _starts(length, digest, p)]
    return (min(s for s, _ in spans), max(e for _, e in spans)) if spans else (0, 0)
