"""Folders of videos, and folders of frame folders, as they come: any names, any sub-folders, some of it broken.

A file that decodes is a clip; so is a folder of pictures (vidm.data.layouts). Each file is decoded once: what the
protocols want of it goes to an unnamed file on disk, up to SPOOL bytes. What was found is kept by the files' own
hashes, so that a second measurement does not decode at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from vidm import machine
from vidm.archives import sha256
from vidm.data import layouts, store, video
from vidm.errors import InputError
from vidm.metrics.kept import Kept
from vidm.metrics.sources import Clip, Source, made

SPOOL = 8 * 2**30  # bytes of temporary disk, and no more than half of what is free
Span = Callable[[int, str], tuple[int, int]]


class _Video:
    """A video file, whole at its own size, or its centre square at `side`."""

    def __init__(self, path: Path, side: int | None) -> None:
        self.path, self.side = path, side
        self.files = [path]

    def open(self) -> tuple[np.ndarray, float | None]:
        facts = video.probe(self.path)
        return video.decode(self.path, self.side, stream=facts.stream), facts.fps


class _Frames:
    """A folder of images, one a frame."""

    def __init__(self, files: list[Path], side: int | None) -> None:
        self.files, self.side = files, side

    def open(self) -> tuple[_Images, None]:
        return _Images(self.files, self.side), None


class _Images:
    """(T,H,W,3) uint8 that reads the images of a slice when it is asked for."""

    def __init__(self, files: list[Path], side: int | None) -> None:
        self.files, self.side = files, side
        self.shape = (len(files), *_image(files[0], side).shape)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: slice) -> np.ndarray:
        images = [_image(path, self.side) for path in self.files[index]]
        for path, image in zip(self.files[index], images, strict=True):
            if image.shape != self.shape[1:]:
                raise video.VideoError(f"frames of several sizes ({path.suffix} files)")
        return np.stack(images)


def _image(path: Path, side: int | None) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = video.rgb(file)
            if side:
                image = ImageOps.fit(image, (side, side), Image.Resampling.BOX)
            return np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise video.VideoError(f"a damaged image ({type(error).__name__})") from None


def from_folder(
    folder: Path, span: Span, side: int | None = None, cache: Path | None = None, any_size: bool = False
) -> Source:
    """The clips below a folder, whatever its sub-folders. side: scale and crop every frame to this square. any_size:
    else those of all sizes stay, not of the most common one alone.

    span(length, hash): the frames (first, last + 1) of a clip that will be read, to be held ready.
    Raises InputError where there is no such folder.
    """
    found, dropped = _found(folder, side)
    kept = Kept({"kind": "index", "files": _digest(found), "side": side, "ffmpeg": _decoder(found)}, cache)
    spool = _Spool()
    index = kept.read()
    if index is None:
        rows = list(_indexed([clip for _, clip in found], spool, span))
        index = {"rows": np.array(json.dumps(rows).encode())}
        kept.write(index)
    clips, codecs = [], set()
    for k, ((name, clip), row) in enumerate(zip(found, json.loads(index["rows"].tobytes().rstrip(b"\0")), strict=True)):
        if "reason" in row:
            dropped.append((name, row["reason"]))
            continue
        clips.append(Clip(k, row["length"], row["hash"], name, tuple(row["size"]), row["fps"]))
        codecs.add(clip.files[0].suffix.lower().lstrip(".") or "video")
    reader = _Reader([clip for _, clip in found], spool)
    codec = "decoded from " + ", ".join(sorted(codecs))
    return made(str(folder), "folder", clips, reader.read, codec, dropped, any_size)


def _found(folder: Path, side: int | None) -> tuple[list[tuple[str, _Video | _Frames]], list[tuple[str, str]]]:
    """Clips and what is no clip by its name alone, each in the order of names."""
    clips, dropped = [], []
    for candidate in layouts.find_clips(folder, "videos"):
        if candidate.reason and not candidate.reason.startswith("beside"):  # which split does not matter here
            dropped.append((candidate.source, candidate.reason))
        elif candidate.pictures:
            clips.append((candidate.source, _Frames(layouts.frame_files(candidate.path), side)))
        else:
            clips.append((candidate.source, _Video(candidate.path, side)))
    return sorted(clips, key=lambda clip: clip[0]), dropped


def _digest(clips: list[tuple[str, _Video | _Frames]]) -> str:
    """Of every file's bytes, clip by clip; names don't count."""
    lines = (" ".join(str(sha256(path)) for path in clip.files) + "\n" for _, clip in clips)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _decoder(found: list) -> str:
    """The program that decodes, where one does: another may give other pixels."""
    if not any(isinstance(clip, _Video) for _, clip in found):
        return ""
    said = subprocess.run([video.ffmpeg_program(), "-version"], capture_output=True, text=True, check=False).stdout
    return said.partition(" Copyright")[0]


def _indexed(clips: list, spool: _Spool, span: Span) -> Iterator[dict]:
    """A row for each clip: length, hash, size, fps, or the reason why it can't be used."""

    def opened(clip):
        try:
            frames, fps = clip.open()
            if isinstance(frames, _Images):  # as store.clip_hash, one image at a time
                digest = hashlib.sha256(json.dumps(list(frames.shape)).encode())
                for k in range(len(frames)):
                    digest.update(frames[k : k + 1])
                return frames, digest.hexdigest(), fps
            return frames, store.clip_hash(frames), fps
        except video.VideoError as error:
            return None, str(error), None

    threads = machine.cores()
    with ThreadPoolExecutor(threads) as pool:
        waiting, rest = [], iter(clips)
        for k in range(len(clips)):
            # No more than a few decoded ones wait: each holds disk and a handle.
            waiting += [pool.submit(opened, clip) for clip in islice(rest, 2 * threads - len(waiting))]
            frames, digest, fps = waiting.pop(0).result()
            if frames is None:
                yield {"reason": digest}
                continue
            first, stop = span(frames.shape[0], digest)
            if stop > first:
                spool.put(k, first, frames[first:stop])
            yield {
                "length": int(frames.shape[0]),
                "hash": digest,
                "size": [int(n) for n in frames.shape[1:3]],
                "fps": None if fps is None else round(float(fps), 6),
            }


class _Spool:
    """Decoded frames in an unnamed temporary file, up to SPOOL bytes; more are not taken."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as this object lives
        weakref.finalize(self, self.file.close)
        self.at: dict[int, tuple[int, int, tuple]] = {}
        self.used, self.room = 0, min(SPOOL, shutil.disk_usage(tempfile.gettempdir()).free // 2)

    def put(self, k: int, first: int, frames: np.ndarray) -> None:
        if self.used + frames.nbytes > self.room:
            return
        try:
            self.file.seek(self.used)
            self.file.write(np.ascontiguousarray(frames).data)
        except OSError:
            return  # the disk is full: this one is decoded again
        self.at[k] = (self.used, first, frames.shape)
        self.used += frames.nbytes

    def get(self, k: int, start: int, stop: int) -> np.ndarray | None:
        if k not in self.at:
            return None
        offset, first, shape = self.at[k]
        if start < first or stop > first + shape[0]:
            return None
        each = int(np.prod(shape[1:]))
        self.file.seek(offset + (start - first) * each)
        data = self.file.read((stop - start) * each)
        return np.frombuffer(data, np.uint8).reshape(stop - start, *shape[1:])


class _Reader:
    """Windows of clips: from the spool, else decoded; the last decoded clip stays open."""

    def __init__(self, clips: list, spool: _Spool) -> None:
        self.clips, self.spool = clips, spool
        self.last: tuple[int, np.ndarray | _Images] | None = None

    def read(self, k: int, start: int, frames: int, stride: int) -> np.ndarray:
        stop = start + (frames - 1) * stride + 1
        held = self.spool.get(k, start, stop)
        if held is not None:
            return held[::stride]
        try:
            if self.last is None or self.last[0] != k:
                self.last = (k, self.clips[k].open()[0])
            return np.asarray(self.last[1][start:stop:stride])
        except video.VideoError as error:
            raise InputError(f"{self.clips[k].files[0]}: changed while it was measured ({error})") from None
