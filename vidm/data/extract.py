"""From a folder of videos to one frame store: parallel over files, broken ones listed with the reason."""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidm import config
from vidm.data.layouts import SPLITS, Candidate, find_clips
from vidm.data.store import FrameStore, StoreWriter
from vidm.data.video import Probe, VideoError, decode, probe
from vidm.errors import InputError
from vidm.machine import cores
from vidm.progress import bar

SHOWN = 10  # skipped files that a summary names; the store lists all


@dataclass(frozen=True)
class Clip:
    """One file, decoded: frames (T, H, W, 3) uint8, the file's sha256 (hex), fps of the source."""

    frames: np.ndarray
    digest: str
    fps: float


def extract(source: str | Path, out: str | Path, facts: config.Dataset, origin: str = "raw", workers: int = 0) -> str:
    """Decode every video below `source` into the frame store `out`; return a summary for people.

    Clips are in the order of their source names, whatever the number of workers (0: one per core). Files that
    can't be used, and copies of files already taken, are skipped and listed with the reason. Without train/ and test/
    folders a file goes to test by the hash of its bytes, with probability `facts.test_fraction`.

    Raises InputError where there is no such folder or no usable clip in it.
    """
    source, out = Path(source), Path(out)
    candidates = find_clips(source)
    if not candidates:
        raise InputError(f"{source}: no video in this folder; put some there")
    started, frames = time.monotonic(), 0
    seen: dict[str, str] = {}  # digest of a file's bytes -> its source
    files: dict[str, list[int]] = {}  # digest -> its clips, of files that no folder gives a split
    side = facts.resolution
    with (
        StoreWriter(out, side, side, facts.model_dump(mode="json"), origin) as writer,
        bar(len(candidates), f"extract {_shown(source.name)}", "files") as progress,
        closing(_decoded(candidates, facts, out.parent, workers or cores())) as stream,
    ):
        for candidate, result in stream:
            try:
                if candidate.reason:
                    raise VideoError(candidate.reason)
                clip = result.result()
                if clip.digest in seen:
                    raise VideoError(f"the same bytes as {seen[clip.digest]}")
                seen[clip.digest] = candidate.source
                for piece, name in _pieces(clip.frames, candidate.source, facts):
                    i = writer.add(
                        piece,
                        fps=clip.fps / facts.stride,
                        stride=facts.stride,
                        split=candidate.split or "",
                        source=name,
                        cls=candidate.cls,
                    )
                    frames += len(piece)
                    if candidate.split is None:
                        files.setdefault(clip.digest, []).append(i)
            except VideoError as error:
                writer.skip(candidate.source, str(error))
            progress.advance(1, f"{frames / (time.monotonic() - started):.0f} frames/s")
        if not len(writer):
            raise InputError(f"{source}: no usable clip; {_reasons(writer.skipped, 3)}")
        for digest, split in split_by_hash(list(files), facts.test_fraction).items():
            for i in files[digest]:
                writer.splits[i] = split
        seconds = time.monotonic() - started
        counts = Counter(writer.splits)
        skipped = list(writer.skipped)
    lines = [
        f"{out}: {sum(counts.values())} clips ({_counts(counts)}), {frames} frames of {side} x {side}, "
        f"{seconds:.1f} s, {frames / seconds:.0f} frames/s"
    ]
    lines += [f"warning: no {split} clip" for split in ("train", "test") if not counts[split]]
    if skipped:
        lines.append(f"{len(skipped)} skipped: {_reasons(skipped, SHOWN)}")
    return "\n".join(lines)


def split_by_hash(digests: list[str], test_fraction: float) -> dict[str, str]:
    """Files (sha256 of their bytes, hex) -> "train" or "test", by the first 32 bits of the hash.

    With two files or more, and a fraction that is neither 0 nor 1, neither side stays empty: the file whose hash
    is nearest to the border is moved.
    """
    place = {digest: int(digest[:8], 16) / 2**32 for digest in digests}
    split = {digest: "test" if place[digest] < test_fraction else "train" for digest in digests}
    if len(split) > 1 and 0 < test_fraction < 1 and len(set(split.values())) == 1:
        nearest = min if "train" in split.values() else max
        moved = nearest(split, key=lambda digest: (place[digest], digest))
        split[moved] = "test" if split[moved] == "train" else "train"
    return split


def _decoded(
    candidates: list[Candidate], facts: config.Dataset, folder: Path, workers: int
) -> Iterator[tuple[Candidate, Future | None]]:
    """Candidates in order, each with its future; a few ahead of the consumer, never all."""
    waiting: deque = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for candidate in candidates:
                job = None if candidate.reason else pool.submit(_decode, candidate, facts, folder)
                waiting.append((candidate, job))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            pool.shutdown(cancel_futures=True)


def _decode(candidate: Candidate, facts: config.Dataset, folder: Path) -> Clip:
    """Hash, probe and decode one file. Raises VideoError with the reason."""
    found = probe(candidate.path)
    _long_enough(found.frames, facts)
    with candidate.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    frames = decode(candidate.path, facts.resolution, facts.stride, facts.resize, found.stream, folder)
    _long_enough(len(frames) * facts.stride, facts, announced=found.frames)
    return Clip(frames, digest, found.fps)


def _long_enough(frames: int, facts: config.Dataset, announced: int = 0) -> None:
    kept = -(-frames // facts.stride)
    if kept < facts.min_frames:
        stride = f" at stride {facts.stride}" if facts.stride > 1 else ""
        whole = f", the file announces {announced}" if announced > frames else ""
        raise VideoError(f"too short: {kept} frames{stride}, needs {facts.min_frames}{whole}")


def _pieces(frames: np.ndarray, source: str, facts: config.Dataset) -> Iterator[tuple[np.ndarray, str]]:
    """A long file in consecutive pieces, "#k" behind their names; a rest that is too short is left out."""
    size = facts.max_frames or len(frames)
    if len(frames) <= size:
        yield frames, source
        return
    for k, start in enumerate(range(0, len(frames), size)):
        piece = frames[start : start + size]
        if len(piece) >= facts.min_frames:
            yield piece, f"{source}#{k}"


def inspect(path: str | Path) -> str:
    """What a folder of videos or a frame store holds, and what would be dropped and why; writes nothing."""
    path = Path(path)
    if path.is_file() or path.suffix == ".h5":
        with FrameStore(path) as store:
            sizes = {f"{store.shape[1]} x {store.shape[0]}"}
            return (
                _report(path, store.splits, sizes, store.lengths, store.fps, store.skipped, f", {store.origin}")
                + f"\nsha256 {store.sha256}"
            )
    candidates = find_clips(path)
    kept, probes, skipped = [], [], []
    for candidate in candidates:
        try:
            if candidate.reason:
                raise VideoError(candidate.reason)
            probes.append(probe(candidate.path))
            kept.append(candidate.split or "no split yet")
        except VideoError as error:
            skipped.append((candidate.source, str(error)))
    sizes = {_upright(found) for found in probes}
    return _report(path, kept, sizes, [p.frames for p in probes], [p.fps for p in probes], skipped)


def _upright(found: Probe) -> str:
    sides = (found.height, found.width) if found.rotation % 180 else (found.width, found.height)
    return f"{sides[0]} x {sides[1]}"


def _report(path, splits, sizes, lengths, fps, skipped, note="") -> str:
    lines = [f"{path}: {len(splits)} clips ({_counts(Counter(splits))}){note}"]
    if len(splits):
        seconds = np.asarray(lengths) / np.asarray(fps)
        shown = sorted(sizes)[:4] + (["..."] if len(sizes) > 4 else [])
        lines += [
            f"size     {', '.join(shown)}",
            f"frames   {_range(lengths)}",
            f"fps      {_range(fps)}",
            f"seconds  {_range(seconds)}, {seconds.sum():.1f} in all",
        ]
    if skipped:
        lines.append(f"{len(skipped)} skipped: {_reasons(skipped, 100)}")
    return "\n".join(lines)


def _range(values) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _counts(counts: Counter) -> str:
    names = [*(s for s in SPLITS if counts[s]), *sorted(s for s in counts if s not in SPLITS)]
    return ", ".join(f"{counts[name]} {name}" for name in names) or "none"


def _shown(name: str) -> str:
    """A file name on one line, whatever is in it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def _reasons(skipped, most: int) -> str:
    lines = [f"{_shown(name)}: {reason}" for name, reason in skipped[:most]]
    if len(skipped) > most:
        lines.append(f"and {len(skipped) - most} more")
    return "; ".join(lines)
