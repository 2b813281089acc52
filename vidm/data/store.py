"""The frame store: all clips of a data set in one HDF5 file, for h5py and xarray alike.

    frames(frame, y, x, c)   uint8, RGB, the clips one after the other, without padding
    clip_start(clip)         first frame of the clip in `frames`
    clip_length(clip)        frames of the clip
    clip_fps(clip)           frames per second of the stored clip, that is after the stride
    clip_stride(clip)        every how many-th frame of the source was kept
    clip_split(clip)         "train", "test", "val"
    clip_class(clip)         class name, or ""
    clip_source(clip)        path below the source folder, "#k" behind it for piece k of a long file
    clip_hash(clip)          sha256 of the clip's bytes and shape

A window of a clip is one slice of `frames`. Every axis is a dimension scale, so that
`xarray.open_dataset(path, engine="h5netcdf")` reads the file. Frames are not compressed: random windows are
read fastest so, and any HDF5 program can read them without a plugin.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vidm.errors import InputError
from vidm.files import replacing

FORMAT, VERSION = "vidm-frames", 1
CHUNK_BYTES = 256 * 1024  # a few frames: a window touches few chunks, a single frame reads little too much
FIELDS = {
    "start": np.int64,
    "length": np.int64,
    "fps": np.float64,
    "stride": np.int64,
    "split": str,
    "class": str,
    "source": str,
    "hash": str,
}
CLASSES = {"ucf101": 101}
REMEDY = "make it again with 'vidm data extract'"


def clip_hash(frames: np.ndarray) -> str:
    """sha256 (hex) of a clip's shape and bytes. frames: (T, H, W, 3) uint8."""
    digest = hash_start(frames.shape)
    digest.update(np.ascontiguousarray(frames))
    return digest.hexdigest()


def hash_start(shape: Iterable[int]) -> hashlib._Hash:
    """`clip_hash` before any frame: update it with the bytes of all."""
    return hashlib.sha256(json.dumps(list(shape)).encode())


def content_hash(hashes: list[str], splits: list[str], strides: list[int]) -> str:
    """sha256 (hex) of a data set: the same for any order of clips, any names, any time."""
    lines = sorted(f"{h} {s} {int(k)}\n" for h, s, k in zip(hashes, splits, strides, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def first_frames_hash(frames: int, hashes: list[str]) -> str:
    """sha256 (hex) of the first so many frames of each of some clips, in this order, by the clips' hashes."""
    return hashlib.sha256("\n".join([str(frames), *hashes]).encode()).hexdigest()


class StoreWriter:
    """Write a frame store: a context manager; the file appears under its name only at a clean exit.

    On an exception the temporary file is removed, and an old file at `path` stays as it was.

    Args:
        path: the .h5 to write; its folder is made.
        height, width: of every frame, pixels.
        facts: what the frames were made by; kept as JSON in the attribute `facts`.
        origin: "raw" or "procedural" (or "samples" for generated videos).
    """

    def __init__(self, path: str | Path, height: int, width: int, facts: dict[str, Any], origin: str) -> None:
        self.path, self.height, self.width = Path(path), int(height), int(width)
        self.facts, self.origin = facts, origin
        self.skipped: list[tuple[str, str]] = []
        self.attributes: dict[str, str] = {}  # further attributes of the file
        self._clips: dict[str, list] = {field: [] for field in FIELDS}
        self._total = 0

    def __enter__(self) -> StoreWriter:
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(replacing(self.path))
            self._file = stack.enter_context(h5py.File(temporary, "w"))
            shape = (self.height, self.width, 3)
            per_chunk = max(1, min(16, CHUNK_BYTES // (self.height * self.width * 3)))
            self._frames = self._file.create_dataset(
                "frames", (0, *shape), np.uint8, maxshape=(None, *shape), chunks=(per_chunk, *shape)
            )
            stack.push(self._finish)  # unwound in reverse: finish, close, rename
            self._stack = stack.pop_all()
        return self

    def add(self, frames: np.ndarray, *, fps: float, stride: int = 1, split: str, source: str, cls: str = "") -> int:
        """Append one clip, (T, H, W, 3) uint8; return its index. `fps` is that of these frames."""
        frames = np.ascontiguousarray(frames)
        if frames.dtype != np.uint8 or frames.shape[1:] != (self.height, self.width, 3) or not len(frames):
            raise ValueError(
                f"{source}: expected uint8 (T, {self.height}, {self.width}, 3), got {frames.dtype} {frames.shape}"
            )
        facts = {"fps": fps, "stride": stride, "split": split, "source": source, "cls": cls}
        return self.append([frames], len(frames), clip_hash(frames), **facts)

    def append(
        self,
        blocks: Iterable[np.ndarray],
        length: int,
        digest: str,
        *,
        fps: float,
        stride: int = 1,
        split: str,
        source: str,
        cls: str = "",
    ) -> int:
        """`add` for a clip that comes in blocks of frames, `length` in all, with its `clip_hash`."""
        start = at = self._total
        self._total += length
        self._frames.resize(self._total, axis=0)
        for block in blocks:
            self._frames[at : at + len(block)] = block
            at += len(block)
        if at != self._total:
            raise ValueError(f"{source}: {at - start} frames came, {length} were announced")
        values = (start, length, fps, stride, split, cls, source, digest)
        for field, value in zip(FIELDS, values, strict=True):
            self._clips[field].append(value)
        return len(self._clips["start"]) - 1

    def skip(self, source: str, reason: str) -> None:
        """Note a file that was not taken; it is listed in the attribute `skipped`."""
        self.skipped.append((source, reason))

    @property
    def splits(self) -> list[str]:
        """The split of each clip so far; it may be changed until the end."""
        return self._clips["split"]

    def __len__(self) -> int:
        return len(self._clips["start"])

    def __exit__(self, *error) -> None:
        self._stack.__exit__(*error)

    def _finish(self, kind, *_) -> None:
        if kind is not None:
            return
        file, clips = self._file, self._clips
        axes = {
            "frame": np.arange(self._total),
            "y": np.arange(self.height),
            "x": np.arange(self.width),
            "c": np.arange(3),
            "clip": np.arange(len(self)),
        }
        for name, values in axes.items():
            file.create_dataset(name, data=values).make_scale(name)
        for field, kind in FIELDS.items():
            dtype = h5py.string_dtype() if kind is str else kind
            data = file.create_dataset(f"clip_{field}", (len(self),), dtype)
            data[:] = clips[field]
            data.dims[0].attach_scale(file["clip"])
        for axis, name in enumerate(("frame", "y", "x", "c")):
            self._frames.dims[axis].attach_scale(file[name])
        file.attrs.update(self.attributes)
        file.attrs["format"], file.attrs["version"] = FORMAT, VERSION
        file.attrs["resolution"] = min(self.height, self.width)
        file.attrs["origin"] = self.origin
        file.attrs["facts"] = json.dumps(self.facts, sort_keys=True)
        file.attrs["skipped"] = json.dumps(self.skipped)
        file.attrs["dropped"] = len(self.skipped)
        file.attrs["sha256"] = content_hash(clips["hash"], clips["split"], clips["stride"])


class FrameStore:
    """Read a frame store. The small tables are read at once, the file is opened when frames are asked for.

    It can be pickled and used in forked or spawned workers: each process has its own handle.

    Attributes (all per clip, in file order): lengths, fps, strides, splits, classes, sources, hashes.
    Of the file: sha256, origin, skipped [(source, reason)], dropped, facts, resolution (short side, pixels),
    shape (height, width), layout (how the folder was read, "" where it was none), groups (recordings that the
    clips were cut from, where the layout tells: the surviving video ids of TaiChi-HD).

    Raises InputError, with the remedy, where the file is missing, truncated or not a frame store.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._handle: h5py.File | None = None
        self._frames: h5py.Dataset | None = None
        self._process = -1
        try:
            with h5py.File(self.path, "r") as file:
                if file.attrs.get("format") != FORMAT:
                    raise InputError(f"{self.path}: not a frame store of vidm; {REMEDY}")
                if file.attrs["version"] != VERSION:
                    raise InputError(f"{self.path}: version {file.attrs['version']}, expected {VERSION}; {REMEDY}")
                table = {
                    field: (file[f"clip_{field}"].asstr()[:].tolist() if kind is str else file[f"clip_{field}"][:])
                    for field, kind in FIELDS.items()
                }
                attributes = dict(file.attrs)
                total, *shape, channels = file["frames"].shape
                self._chunk = file["frames"].chunks
        except FileNotFoundError:
            raise InputError(f"{self.path}: no such frame store; {REMEDY}") from None
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise InputError(f"{self.path}: not a whole HDF5 frame store ({_line(error)}); {REMEDY}") from None
        self._starts, self.lengths = table["start"], table["length"]
        if channels != 3 or (len(self._starts) and (self._starts + self.lengths).max() > total):
            raise InputError(f"{self.path}: its table of clips does not fit its frames; {REMEDY}")
        self.fps, self.strides = table["fps"], table["stride"]
        # One string for each name, not one for each clip: half a million of them are 30 MB.
        self.splits, self.classes = ([sys.intern(name) for name in table[field]] for field in ("split", "class"))
        self.sources, self.hashes = table["source"], table["hash"]
        self.shape = tuple(int(side) for side in shape)
        self.resolution = int(attributes["resolution"])
        self.sha256, self.origin = str(attributes["sha256"]), str(attributes["origin"])
        self.dropped = int(attributes["dropped"])
        self.facts: dict[str, Any] = json.loads(attributes["facts"])
        self.skipped = [(name, reason) for name, reason in json.loads(attributes["skipped"])]
        self.layout, self.groups = str(attributes.get("layout", "")), json.loads(attributes.get("groups", "[]"))

    def __len__(self) -> int:
        return len(self._starts)

    def length(self, i: int) -> int:
        """Frames of clip i."""
        return int(self.lengths[i])

    def indices(self, split: str | None = None) -> list[int]:
        """Clips of a split, in file order; of all splits for None."""
        return [i for i, s in enumerate(self.splits) if split is None or s == split]

    def read(self, i: int, start: int = 0, length: int | None = None, step: int = 1) -> np.ndarray:
        """`length` frames of clip i, from `start`, every `step`-th: (T, H, W, 3) uint8.

        Without a length: all that there are. Raises IndexError where the clip is too short.
        """
        whole = self.length(i)
        if start < 0 or step < 1 or (length is not None and length < 0):
            raise ValueError(f"start {start}, length {length}, step {step}")
        if length is None:
            length = max(0, -(-(whole - start) // step))
        stop = start + (length - 1) * step + 1 if length else start
        if stop > whole:
            raise IndexError(f"clip {i} ({self.sources[i]}) has {whole} frames, asked for {start}..{stop - 1}")
        first = int(self._starts[i])
        # A strided hyperslab is slow in HDF5: read the span, then stride in memory.
        span = self._read(first + start, first + stop)
        return span[::step].copy() if step > 1 else span

    def frame(self, i: int, n: int) -> np.ndarray:
        """Frame n of clip i: (H, W, 3) uint8."""
        return self.read(i, n, 1)[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all frames in memory."""
        return int(self.lengths.sum()) * self.shape[0] * self.shape[1] * 3

    def _read(self, start: int, stop: int) -> np.ndarray:
        if self._process != os.getpid():
            try:
                self._handle = h5py.File(self.path, "r")
            except OSError as error:
                raise InputError(f"{self.path}: can't be opened ({_line(error)}); {REMEDY}") from None
            self._frames, self._process = self._handle["frames"], os.getpid()
        try:
            return self._frames[start:stop]
        except OSError as error:
            raise InputError(f"{self.path}: frames can't be read ({_line(error)}); {REMEDY}") from None

    def close(self) -> None:
        """Close this process's handle; the next read opens it again."""
        if self._handle is not None and self._process == os.getpid():
            self._handle.close()
        self._handle = self._frames = None
        self._process = -1

    def __enter__(self) -> FrameStore:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None, "_frames": None, "_process": -1}


def class_count(path: Path, layout: str) -> int:
    """Classes of a store's clips; of one that is not there those that its layout has, 0 where only the data say it."""
    if not path.is_file():
        return CLASSES.get(layout, 0)
    with FrameStore(path) as store:
        return len(set(store.classes))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
