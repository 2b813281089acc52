"""From a folder of clips to one frame store: parallel over files, resumable, broken ones listed with the reason."""

from __future__ import annotations

import glob
import hashlib
import json
import re
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

from vidm import config
from vidm.data.layouts import SPLITS, Candidate, Found, find
from vidm.data.parts import Part, Parts, fits
from vidm.data.probing import VideoError
from vidm.data.store import StoreWriter
from vidm.errors import InputError
from vidm.files import check_file, sweep
from vidm.machine import cores
from vidm.progress import bar

SHOWN = 10  # skipped files that a summary names; the store lists all


def extract(
    source: str | Path,
    out: str | Path,
    facts: config.Dataset,
    origin: str = "raw",
    workers: int = 0,
    parts: str | Path | None = None,
    prune: bool = False,
    shard: tuple[int, int] | None = None,
) -> str:
    """Decode every clip below `source` into the frame store `out`; return a summary for people.

    Clips are in the order of their source names, whatever the number of workers (0: one per core; no more than
    the machine has). Files that can't be used, and copies of files already taken, are skipped and listed with the
    reason. A clip that no folder and no list gives a split goes to test by a hash of its bytes (of its group,
    where the layout knows one) with probability `facts.test_fraction`.

    Decoded clips wait as files in `parts` and are taken from there the next time; `prune` removes them when the
    store is written. None: a folder beside `out`, always removed. shard (k, n): only make the parts of every n-th
    file, from the k-th (1..n), and write no store; a call without it puts all together.

    Raises InputError where there is no such folder, no usable clip in it, or not enough room on the disk.
    """
    source, out = Path(source), Path(out)
    check_file(out)
    # The embedded sky is rendered as train/ and test/, whatever its data set looks like.
    found = find(source, "videos" if origin == "procedural" else facts.layout, facts.fold)
    if not found.clips:
        raise InputError(f"{source}: no video in this folder; put some there")
    started, title = time.monotonic(), f"extract {shown(source.name)}"
    with ExitStack() as stack:
        temporary = parts is None
        if temporary:
            out.parent.mkdir(parents=True, exist_ok=True)
            parts = stack.enter_context(tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent))
        kept = Parts(Path(parts), facts)
        if shard:
            k, n = shard
            mine = found.clips[k - 1 :: n]
            done = sum(reason == "" for _, _, reason in _made(mine, kept, workers, f"{title} {k}/{n}"))
            seconds = time.monotonic() - started
            return f"{parts}: {done} of {len(mine)} clips of shard {k} of {n}, {seconds:.1f} s"
        sweep(out.parent, f".{glob.escape(out.name)}.*.tmp")
        made = stack.enter_context(closing(_made(found.clips, kept, workers, title)))
        lines, frames = _assemble(source, out, facts, origin, found, kept, made)
        seconds = time.monotonic() - started
        lines[0] += f", {seconds:.1f} s, {frames / seconds:.0f} frames/s"
        if kept.reused:
            lines.append(f"{kept.reused} clips were decoded before and taken from {parts}")
        if prune:
            kept.prune()
        elif not temporary:
            lines.append(f"parts: {size(kept.nbytes())} in {parts}, for the next time; --prune removes them")
        return "\n".join(lines)


def _made(
    candidates: list[Candidate], parts: Parts, workers: int, title: str
) -> Iterator[tuple[Candidate, Part | None, str]]:
    """Each candidate in order, with its part, or None and the reason why there is none."""
    started, frames = time.monotonic(), 0
    workers = min(workers or cores(), cores())
    with bar(len(candidates), title, "files") as progress, closing(_decoded(candidates, parts, workers)) as stream:
        for candidate, result in stream:
            try:
                part = result.result()
                frames += part.frames
                yield candidate, part, ""
            except VideoError as error:
                yield candidate, None, str(error)
            progress.advance(1, f"{frames / (time.monotonic() - started):.0f} frames/s")


def _decoded(candidates: list[Candidate], parts: Parts, workers: int) -> Iterator[tuple[Candidate, Future]]:
    """Candidates in order, each with its future; a few ahead of the consumer, never all."""
    waiting: deque = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for candidate in candidates:
                waiting.append((candidate, pool.submit(_part, candidate, parts)))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            pool.shutdown(cancel_futures=True)


def _part(candidate: Candidate, parts: Parts) -> Part:
    return (None if candidate.reason else parts.kept(candidate)) or parts.make(candidate)


def _assemble(
    source: Path,
    out: Path,
    facts: config.Dataset,
    origin: str,
    found: Found,
    parts: Parts,
    made: Iterable[tuple[Candidate, Part | None, str]],
) -> tuple[list[str], int]:
    """Copy the parts into the store as they come; it appears under its name when it is whole. (summary, frames)"""
    side, total = facts.resolution, 0
    seen: dict[str, str] = {}  # digest of a file's bytes -> its source
    undecided: dict[str, list[int]] = {}  # digest -> its clips, where nothing names a split
    groups = set()
    with StoreWriter(out, side, side, facts.model_dump(mode="json"), origin) as writer:
        for candidate, part, reason in made:
            reason = reason or _unwanted(part, facts, seen)
            if reason:
                writer.skip(candidate.source, reason)
                continue
            seen[part.digest] = candidate.source
            _room(out, part.frames * side * side * 3)
            digest = hashlib.sha256(candidate.group.encode()).hexdigest() if candidate.group else part.digest
            for start, length, name, piece in _pieces(part, parts.hashes(candidate, part), facts):
                i = writer.append(
                    parts.blocks(candidate, start, length),
                    length,
                    piece,
                    fps=part.fps,
                    stride=facts.stride,
                    split=candidate.split or "",
                    source=name,
                    cls=candidate.cls,
                )
                total += length
                if candidate.split is None:
                    undecided.setdefault(digest, []).append(i)
            groups |= {candidate.group} - {""}
        if not len(writer):
            raise InputError(f"{source}: no usable clip; {reasons(writer.skipped, 3)}")
        for digest, split in split_by_hash(list(undecided), facts.test_fraction).items():
            for i in undecided[digest]:
                writer.splits[i] = split
        writer.attributes |= {"layout": found.layout, "groups": json.dumps(sorted(groups))}
        splits, skipped = Counter(writer.splits), list(writer.skipped)
    notes = "".join(f"; {note}" for note in found.notes)
    lines = [f"{out}: {sum(splits.values())} clips ({counts(splits)}), {total} frames of {side} x {side}"]
    lines += [f"layout {found.layout}{notes}"]
    lines += [f"warning: no {split} clip" for split in ("train", "test") if not splits[split]]
    if skipped:
        lines.append(f"{len(skipped)} skipped: {reasons(skipped, SHOWN)}")
    return lines, total


def _unwanted(part: Part, facts: config.Dataset, seen: dict[str, str]) -> str:
    """Why a decoded clip is not taken, or ""."""
    try:
        fits(part.frames * facts.stride, facts, part.announced)
    except VideoError as error:
        return str(error)
    return f"the same bytes as {seen[part.digest]}" if part.digest in seen else ""


def _room(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out.parent).free
    if free < needed:
        raise InputError(f"{out}: the next clip needs {size(needed)}, the disk has {size(free)}; the parts are kept")


def _pieces(part: Part, hashes: list[str], facts: config.Dataset) -> Iterator[tuple[int, int, str, str]]:
    """(start, length, name, hash) of the clips that a file is cut into, "#k" behind their names.

    A rest that is too short is left out.
    """
    most = facts.max_frames or part.frames
    for k, digest in enumerate(hashes):
        length = min(most, part.frames - k * most)
        if length >= facts.min_frames:
            yield k * most, length, f"{part.source}#{k}" if part.frames > most else part.source, digest


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


def shard(text: str | None) -> tuple[int, int] | None:
    """'3/16' -> (3, 16). Raises InputError."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"--shard {text}: not K/N with K from 1 to N, such as 3/16")
    return int(match[1]), int(match[2])


def counts(found: Counter) -> str:
    """'8 train, 4 test', known splits first."""
    names = [*(s for s in SPLITS if found[s]), *sorted(s for s in found if s not in SPLITS)]
    return ", ".join(f"{found[name]} {name}" for name in names) or "none"


def shown(name: str) -> str:
    """A file name on one line, whatever is in it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def reasons(skipped: list[tuple[str, str]], most: int) -> str:
    """Files and why they are left out, on one line."""
    lines = [f"{shown(name)}: {reason}" for name, reason in skipped[:most]]
    if len(skipped) > most:
        lines.append(f"and {len(skipped) - most} more")
    return "; ".join(lines)


def size(nbytes: float) -> str:
    """'1.2 GB'."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"
