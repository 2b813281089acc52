"""Videos to measure, wherever they are: a frame store, an array, a file of arrays, noise. Folders: `folders`.

A source knows each clip's length, size and content hash, and reads windows of frames one at a time, so that the
number of clips does not matter to memory. What can't be used is dropped, counted, and its reason kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import tempfile
import weakref
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vidm.data import store
from vidm.data.store import FrameStore
from vidm.errors import InputError

Read = Callable[[int, int, int, int], np.ndarray]


@dataclass(frozen=True)
class Clip:
    """One video: frames, content hash, name, (height, width) in pixels, frames per second where known.

    index: what `Source.read` calls it by; split: "" where it is in none.
    """

    index: int
    length: int
    hash: str
    name: str
    size: tuple[int, int]
    fps: float | None = None
    split: str = ""


@dataclass(frozen=True)
class Source:
    """Clips of one size, or of any that `made` let in. read(clip.index, start, frames, stride) is (frames,H,W,3) uint8.

    origin: "procedural", "raw", "generated", "array", "folder". codec: how the frames were stored.
    dropped: (name, reason) of what was left away. sha256: of the content, whatever its order.
    """

    name: str
    origin: str
    clips: list[Clip]
    read: Read
    codec: str
    dropped: list[tuple[str, str]] = field(default_factory=list)
    sha256: str = ""
    split: str | None = None
    """The one that was taken; None: there are none, or all were."""

    @property
    def size(self) -> tuple[int, int] | None:
        return self.clips[0].size if self.clips else None

    def facts(self) -> dict[str, Any]:
        """For a report: what this is and what was left away, and why."""
        reasons = Counter(reason for _, reason in self.dropped)
        rates = sorted({round(c.fps, 3) for c in self.clips if c.fps})
        return {
            "source": self.origin,
            "sha256": self.sha256,
            "split": self.split,
            "clips": len(self.clips),
            "size": list(self.size) if self.size else None,
            "fps": rates[0] if len(rates) == 1 else (rates or None),
            "codec": self.codec,
            "dropped": len(self.dropped),
            "dropped_why": dict(sorted(reasons.items())),
        }


def made(
    name: str,
    origin: str,
    clips: list[Clip],
    read: Read,
    codec: str,
    dropped: Sequence[tuple[str, str]] = (),
    any_size: bool = False,
    **more,
) -> Source:
    """A source of the clips that have the size of most; the others are dropped, unless any size will do."""
    sizes = Counter(c.size for c in clips)
    kept, dropped = clips, list(dropped)
    if len(sizes) > 1 and not any_size:
        most = max(sizes, key=lambda s: (sizes[s], s))
        kept = [c for c in clips if c.size == most]
        wrong = f"{{1}} x {{0}} pixels, most are {most[1]} x {most[0]}"
        dropped += [(c.name, wrong.format(*c.size)) for c in clips if c.size != most]
    more.setdefault("sha256", hashlib.sha256("\n".join(sorted(c.hash for c in kept)).encode()).hexdigest())
    return Source(name=name, origin=origin, clips=kept, read=read, codec=codec, dropped=dropped, **more)


def from_store(frames: FrameStore, split: str | None) -> Source:
    """A split of a frame store; None, or a split that it does not have: all clips."""
    inside = frames.indices(split if split in frames.splits else None)
    strides = frames.strides
    clips = [
        Clip(
            index=i,
            length=frames.length(i),
            hash=frames.hashes[i],
            name=frames.sources[i],
            size=frames.shape,
            fps=float(frames.fps[i]),
            split=frames.splits[i],
        )
        for i in inside
    ]
    codec = "uint8, not compressed"
    if len(strides) and int(max(strides)) > 1:
        codec += f"; stride {int(max(strides))} of its source"
    return made(
        f"{frames.path} ({split})" if split in frames.splits else str(frames.path),
        frames.origin,
        clips,
        frames.read,
        codec,
        frames.skipped,  # by `vidm data extract`
        sha256=frames.sha256,
        split=split if split in frames.splits else None,
    )


def by_seed(source: Source, seeds: dict[str, Any]) -> list[Source]:
    """The samples of each seed, of a store that holds several. seeds: what `vidm sample` noted under that name."""
    if "each" not in seeds:
        return [source]
    found = []
    for k, seed in enumerate(seeds["seeds"]):
        clips = [c for c in source.clips if c.index // seeds["each"] == k]
        found.append(dataclasses.replace(source, name=f"{source.name} (seed {seed})", clips=clips))
    return found


def from_arrays(videos: Any, name: str) -> Source:
    """(N,T,H,W,3) uint8, in memory or mapped, or a list of clips (T,H,W,3). Raises InputError."""
    listed = isinstance(videos, list | tuple | _Zipped) and len(videos) and isinstance(videos[0], np.ndarray)
    if not listed:
        _checked(videos, name, 5, "(N,T,H,W,3)")
    clips = []
    for k, clip in enumerate(videos):
        if listed:
            _checked(clip, f"{name}[{k}]", 4, "(T,H,W,3)")
        clips.append(Clip(k, len(clip), store.clip_hash(clip), f"{k:09d}", clip.shape[1:3]))
    return made(name, "array", clips, lambda i, start, n, step: _window(videos[i], start, n, step), "uint8, an array")


def _checked(array: Any, name: str, dimensions: int, wanted: str) -> None:
    shown = f"{getattr(array, 'dtype', type(array).__name__)} {getattr(array, 'shape', '')}".strip()
    if not isinstance(array, np.ndarray | _OnDisk) or array.dtype != np.uint8:
        raise InputError(f"{name}: videos must be uint8 in 0..255, shape {wanted}, not {shown}")
    if len(array.shape) != dimensions or array.shape[-1] != 3 or 0 in array.shape[1:]:
        channels = len(array.shape) == dimensions and array.shape[-3] == 3
        hint = "; move the channels to the end" if channels else ""
        raise InputError(f"{name}: videos must have the shape {wanted}, not {tuple(array.shape)}{hint}")


def _window(clip: np.ndarray, start: int, frames: int, stride: int) -> np.ndarray:
    return np.asarray(clip[start : start + (frames - 1) * stride + 1 : stride])


class _OnDisk:
    """Clips of a .npy file, read when asked for. (Pages of a mapped file would count as this process's memory.)"""

    def __init__(self, path: Path) -> None:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        self.path, self.dtype, self.shape = path, mapped.dtype, mapped.shape
        self.in_order, self.offset = mapped.flags.c_contiguous, getattr(mapped, "offset", 0)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, k: int) -> np.ndarray:
        if k >= len(self):
            raise IndexError(k)
        if not self.in_order:
            return np.array(np.load(self.path, mmap_mode="r", allow_pickle=False)[k])
        size = int(np.prod(self.shape[1:]))
        return np.fromfile(self.path, self.dtype, size, offset=self.offset + k * size).reshape(self.shape[1:])


class _Zipped:
    """The arrays of an .npz, one for each clip, read when asked for."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path, self.names = path, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, k: int) -> np.ndarray:
        if k >= len(self):
            raise IndexError(k)
        with self.path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return file[self.names[k]]


def from_array_file(path: Path) -> Source:
    """A .npy of (N,T,H,W,3) uint8, or a .npz of one such, or of one clip (T,H,W,3) each. Raises InputError."""
    try:
        if path.suffix == ".npy":
            return from_arrays(_OnDisk(path), str(path))
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            names = file.files
            if len(names) != 1:
                if not names:
                    raise InputError(f"{path}: holds nothing; expected one array, or one for each clip")
                return from_arrays(_Zipped(path, names), str(path))
        # An .npz is a zip, perhaps compressed: unpacked beside, so that clips are read one at a time.
        folder = tempfile.TemporaryDirectory(prefix="vidm-")
        with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as packed:
            unpacked = Path(folder.name) / "array.npy"
            with unpacked.open("wb") as out:
                shutil.copyfileobj(packed, out)
        videos = _OnDisk(unpacked)
        weakref.finalize(videos, folder.cleanup)
        return from_arrays(videos, str(path))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not readable as a numpy array ({' '.join(str(error).split())})") from None


def noise(count: int, frames: int, size: tuple[int, int], seed: int) -> Source:
    """Independent uniform uint8 noise: clip k is a function of (seed, k), its length and size."""

    def read(k: int, start: int, n: int, step: int) -> np.ndarray:
        whole = np.random.default_rng([seed, k]).integers(0, 256, (frames, *size, 3), dtype=np.uint8)
        return _window(whole, start, n, step)

    clips = [Clip(k, frames, _noise_hash(seed, k, frames, size), f"{k:09d}", size) for k in range(count)]
    return made("noise", "noise", clips, read, "uint8")


def _noise_hash(seed: int, k: int, frames: int, size: tuple[int, int]) -> str:
    return hashlib.sha256(f"noise {seed} {k} {frames} {size}".encode()).hexdigest()
