"""Clips that are decoded already: what makes an extraction resumable and incremental.

A part is two files in the folder of a data set, under a key made of the clip's name and the settings:

    <key>.rgb    the frames, raw bytes of (T, resolution, resolution, 3)
    <key>.json   written last: what the frames were made from, and their hashes

A part counts as long as its source has the same size and times, or else the same bytes. Minimum and maximum length,
splits and classes are no settings: another choice of them decodes nothing anew.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from vidm import config
from vidm.data.decoding import ffmpeg_version, write
from vidm.data.layouts import Candidate, frame_files
from vidm.data.probing import Probe, VideoError, probe, probe_pictures
from vidm.data.store import hash_start
from vidm.errors import InputError
from vidm.files import replacing, sweep

VERSION = 2  # raised when the frames of the same file come out otherwise
BLOCK = 1 << 20  # bytes of frames that are in memory at once; more would fall out of the processor's cache


@dataclass(frozen=True)
class Part:
    """One decoded clip. digest: sha256 of the source's bytes; pieces: hash of each piece of `size` frames."""

    source: str
    stamp: list[int]
    digest: str
    fps: float
    frames: int
    announced: int
    size: int
    pieces: list[str]


class Parts:
    """The parts of one data set at one setting, in `folder`."""

    def __init__(self, folder: Path, facts: config.Dataset) -> None:
        self.folder, self.facts = folder, facts
        self.reused, self._counting = 0, Lock()  # parts that were there before
        settings = facts.model_dump(include={"resolution", "stride", "resize", "fps"})
        self._settings = config.digest(settings, VERSION, ffmpeg_version())
        self._frame = facts.resolution**2 * 3
        sweep(folder, "*/.*.tmp")

    def kept(self, candidate: Candidate) -> Part | None:
        """The part of a clip, where it was made before and still counts."""
        path = self._path(candidate)
        try:
            part = Part(**json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
            whole = path.stat().st_size == part.frames * self._frame
            stamp = _stamp(candidate)
            if whole and part.stamp != stamp and file_digest(candidate) == part.digest:
                part = Part(**(asdict(part) | {"stamp": stamp}))
                self._note(path, part)
        except (OSError, ValueError, TypeError):
            return None
        if not whole or part.stamp != stamp:
            return None
        with self._counting:
            self.reused += 1
        return part

    def make(self, candidate: Candidate) -> Part:
        """Decode a clip into its part. Raises VideoError with the reason, InputError where the disk is full."""
        facts, size, path = self.facts, self.facts.max_frames or 0, self._path(candidate)
        found = examine(candidate, facts, count=False)
        try:
            stamp, digest = _stamp(candidate), file_digest(candidate)
        except OSError as error:
            raise VideoError(f"can't be read ({error.strerror})") from None
        how = (facts.resolution, facts.stride, facts.resize)
        try:
            with replacing(path) as temporary, temporary.open("r+b") as file:
                frames, *_ = write(candidate.path, file, *how, fps=facts.fps, found=found)
                pieces = _hashes(temporary, frames, size, facts.resolution)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise InputError(f"{self.folder}: the disk is full; free some, and the same command goes on") from None
        fps = found.fps if candidate.pictures else facts.fps or found.fps
        part = Part(candidate.source, stamp, digest, fps / facts.stride, frames, found.frames, size, pieces)
        self._note(path, part)
        return part

    def hashes(self, candidate: Candidate, part: Part) -> list[str]:
        """Of each piece of the maximum length in force now."""
        size = self.facts.max_frames or 0
        if part.size == size:
            return part.pieces
        return _hashes(self._path(candidate), part.frames, size, self.facts.resolution)

    def blocks(self, candidate: Candidate, start: int, length: int) -> Iterator[np.ndarray]:
        """Frames start..start+length-1 of a part, a few at a time: (n, resolution, resolution, 3) uint8."""
        return _blocks(self._path(candidate), start, length, self.facts.resolution)

    def nbytes(self) -> int:
        """Bytes that the folder takes, parts of other settings and of files that are gone with them."""
        return sum(path.stat().st_size for path in self.folder.glob("*/*") if path.is_file())

    def prune(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, candidate: Candidate) -> Path:
        key = hashlib.sha256(json.dumps([candidate.source, self._settings]).encode()).hexdigest()[:32]
        return self.folder / key[:2] / f"{key}.rgb"

    def _note(self, path: Path, part: Part) -> None:
        with replacing(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(asdict(part)), encoding="utf-8")


def examine(candidate: Candidate, facts: config.Dataset, count: bool = True) -> Probe:
    """What a candidate says of itself, as `probe`. Raises VideoError with the reason why it can't be taken."""
    if candidate.reason:
        raise VideoError(candidate.reason)
    return probe_pictures(candidate.path, facts.fps) if candidate.pictures else probe(candidate.path, count)


def fits(frames: int, facts: config.Dataset, announced: int = 0) -> None:
    """Raise VideoError where `frames` of the source (0: not known) are too few after the stride."""
    kept = -(-frames // facts.stride)
    if frames and kept < facts.min_frames:
        stride = f" at stride {facts.stride}" if facts.stride > 1 else ""
        whole = f", the file announces {announced}" if announced > frames else ""
        raise VideoError(f"too short: {kept} frames{stride}, needs {facts.min_frames}{whole}")


def _files(candidate: Candidate) -> list[Path]:
    return frame_files(candidate.path) if candidate.pictures else [candidate.path]


def _stamp(candidate: Candidate) -> list[int]:
    """Changes when a file does: number of files, bytes, newest times."""
    found = [path.stat() for path in _files(candidate)]
    newest = [max(getattr(s, name) for s in found) for name in ("st_mtime_ns", "st_ctime_ns")]
    return [len(found), sum(s.st_size for s in found), *newest]


def file_digest(candidate: Candidate) -> str:
    """sha256 (hex) of a file's bytes, or of a folder's pictures one after the other."""
    if not candidate.pictures:
        with candidate.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for path in _files(candidate):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _blocks(path: Path, start: int, length: int, side: int) -> Iterator[np.ndarray]:
    """The frames a few at a time, all in one piece of memory: a block is gone when the next one comes."""
    frame = side * side * 3
    most = max(1, min(length, BLOCK // frame))
    block = np.empty((most, side, side, 3), np.uint8)
    with path.open("rb", buffering=0) as file:
        file.seek(start * frame)
        for n in range(0, length, most):
            part = block[: min(most, length - n)]
            if file.readinto(memoryview(part).cast("B")) != part.nbytes:
                raise InputError(f"{path}: shorter than it was; remove it, and the same command makes it again")
            yield part


def _hashes(path: Path, frames: int, size: int, side: int) -> list[str]:
    """`clip_hash` of each piece of `size` frames (0: of all), the last one as long as it is."""
    found = []
    for start in range(0, frames, size or frames):
        length = min(size or frames, frames - start)
        digest = hash_start((length, side, side, 3))
        for block in _blocks(path, start, length, side):
            digest.update(block)
        found.append(digest.hexdigest())
    return found
