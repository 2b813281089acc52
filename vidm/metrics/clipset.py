"""Sets of clips to measure: from a frame store, an array or a folder of videos, cut as a protocol says.

A set is read clip by clip, so that its size does not matter to memory. Where a protocol wants fewer windows than
there are, and where in a longer video its window lies, depend on the seed and the clips' content, not on names
(unless the protocol says so), so that the same videos give the same number from any kind of source.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidm.data import layouts, store, video
from vidm.data.store import FrameStore
from vidm.errors import InputError
from vidm.metrics.protocol import Protocol


@dataclass(frozen=True)
class ClipSet:
    """Windows of a protocol: `read(k)` is (T,H,W,3) uint8, k below `len`.

    name: for messages. source: "procedural", "raw", "array", ... sha256: of the content, whatever its order.
    short: videos left away because they have fewer frames than a window spans. dropped: files without a clip.
    """

    name: str
    source: str
    sha256: str
    windows: list[tuple[int, int]]
    short: int
    dropped: int
    clip: Callable[[int, int], np.ndarray]

    def __len__(self) -> int:
        return len(self.windows)

    def read(self, k: int) -> np.ndarray:
        return self.clip(*self.windows[k])


def open_set(path: Path, protocol: Protocol, split: str | None = None) -> ClipSet:
    """The clips of a .h5 frame store, a .npy or .npz array (N,T,H,W,3) uint8, or a folder of videos.

    `split` is taken of a store that has it. Raises InputError.
    """
    path = Path(path)
    if path.is_dir():
        return from_folder(path, protocol)
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder; give a .h5, .npy or .npz file or a folder of videos")
    if path.suffix in {".h5", ".hdf5"}:
        frames = FrameStore(path)
        return from_store(frames, protocol, split if split in frames.splits else None)
    if path.suffix in {".npy", ".npz"}:
        return from_array(_array(path), protocol, str(path))
    raise InputError(f"{path}: not a .h5, .npy or .npz file or a folder of videos")


def from_store(frames: FrameStore, protocol: Protocol, split: str | None) -> ClipSet:
    """One window of each clip of a split (None: all) that is long enough."""
    inside = frames.indices(split)
    windows, short = _windows([(i, frames.length(i), frames.hashes[i], frames.sources[i]) for i in inside], protocol)
    return ClipSet(
        name=f"{frames.path} ({split})" if split else str(frames.path),
        source=frames.origin,
        sha256=frames.sha256,
        windows=windows,
        short=short,
        dropped=frames.dropped,
        clip=lambda i, start: frames.read(i, start, protocol.frames, protocol.stride),
    )


def from_array(array: np.ndarray, protocol: Protocol, name: str) -> ClipSet:
    """Clips (N,T,H,W,3) uint8 in memory, or mapped. Raises InputError for another dtype or shape."""
    shown = f"{getattr(array, 'dtype', type(array).__name__)} {getattr(array, 'shape', '')}".strip()
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        raise InputError(f"{name}: videos must be uint8 in 0..255, shape (N,T,H,W,3), not {shown}")
    if array.ndim != 5 or array.shape[-1] != 3 or 0 in array.shape[1:]:
        raise InputError(f"{name}: videos must have the shape (N,T,H,W,3), not {array.shape}")
    hashes = [store.clip_hash(clip) for clip in array]
    windows, short = _windows([(i, array.shape[1], digest, f"{i:09d}") for i, digest in enumerate(hashes)], protocol)
    return ClipSet(
        name=name,
        source="array",
        sha256=_together(hashes),
        windows=windows,
        short=short,
        dropped=0,
        clip=lambda i, start: np.asarray(array[i, start : start + protocol.span : protocol.stride]),
    )


def from_folder(folder: Path, protocol: Protocol) -> ClipSet:
    """Every video below a folder, whatever its sub-folders; the centre square of each at its own size.

    A file that does not decode is dropped. Files are decoded twice: to see how many frames they have, and
    for their window.
    """
    decoded = []
    found = layouts.find_clips(folder, "videos")
    for candidate in found:
        try:
            if not candidate.reason or candidate.reason.startswith("beside"):  # which split does not matter here
                frames = _decode(candidate)
                decoded.append((candidate, len(frames), store.clip_hash(frames), candidate.source))
        except video.VideoError:
            continue
    windows, short = _windows([(i, *facts) for i, (_, *facts) in enumerate(decoded)], protocol)
    return ClipSet(
        name=str(folder),
        source="folder",
        sha256=_together([digest for _, _, digest, _ in decoded]),
        windows=windows,
        short=short,
        dropped=len(found) - len(decoded),
        clip=lambda i, start: np.asarray(_decode(decoded[i][0])[start : start + protocol.span : protocol.stride]),
    )


def _decode(candidate: layouts.Candidate) -> np.ndarray:
    found = video.probe_pictures(candidate.path) if candidate.pictures else video.probe(candidate.path)
    return video.decode(candidate.path, min(found.width, found.height), found=found)


def _windows(clips: list[tuple[int, int, str, str]], protocol: Protocol) -> tuple[list[tuple[int, int]], int]:
    """([(clip, start)], clips too short) of clips (index, frames, hash, name), in the protocol's order of choice."""
    key = (lambda c: c[3]) if protocol.choice == "by name" else (lambda c: (c[2], c[3]))
    windows = []
    for index, frames, digest, _ in sorted(clips, key=key):
        free = frames - protocol.span + 1
        if free > 0:
            rng = np.random.default_rng([protocol.seed, int(digest[:16], 16)])
            windows.append((index, int(rng.integers(free)) if protocol.start == "random" else 0))
    return windows, len(clips) - len(windows)


def _together(hashes: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def _array(path: Path) -> np.ndarray:
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            if len(loaded.files) != 1:
                raise InputError(f"{path}: holds {', '.join(loaded.files) or 'nothing'}; expected one array")
            return loaded[loaded.files[0]]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not readable as a numpy array ({' '.join(str(error).split())})") from None
