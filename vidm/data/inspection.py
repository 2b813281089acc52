"""A dry run: what a folder or a frame store holds, what would be dropped and why, before anything is written."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vidm import config
from vidm.data.extract import counts, reasons, size
from vidm.data.layouts import SPLITS, Candidate, find
from vidm.data.parts import examine, file_digest, fits
from vidm.data.probing import Probe, VideoError
from vidm.data.store import REMEDY, FrameStore, clip_hash
from vidm.errors import InputError
from vidm.files import replacing
from vidm.machine import cores
from vidm.progress import bar

UNDECIDED = "no split yet"
# Of names of pixel formats, ffmpeg's and Pillow's.
DEEP = re.compile(r"(9|10|12|14|16)(le|be)$|^rgb48|^bgr48|^rgba64|^I|^x2")
ALPHA = re.compile(r"rgba|bgra|argb|abgr|yuva|gbrap|RGBA|LA|^ya|^pal8$")
SETTLED = 100  # dropped files that a report names; --json has all


def survey(path: str | Path, facts: config.Dataset, most: int = 400) -> dict[str, Any]:
    """What is there, as JSON has it. Of a folder with more than `most` clips (0: no limit) only that many are opened,
    spread evenly; counts of splits and classes are of all, `opened` says of how many the rest is.

    Raises InputError where there is no such folder or store.
    """
    path = Path(path)
    if path.is_file() or path.suffix in (".h5", ".hdf5"):
        return _of_store(path)
    found = find(path, facts.layout, facts.fold)
    good = [c for c in found.clips if not c.reason]
    some = good if not most or len(good) <= most else [good[k * len(good) // most] for k in range(most)]
    with ThreadPoolExecutor(cores()) as pool, bar(len(some), f"inspect {path.name}", "files") as progress:
        seen = []
        for candidate, one in zip(some, pool.map(lambda c: examined(c, facts), some), strict=True):
            seen.append((candidate, one))
            progress.advance()
    dropped = {c.source: c.reason for c in found.clips if c.reason}
    dropped |= {c.source: one for c, one in seen if isinstance(one, str)}
    opened = [(c, one) for c, one in seen if isinstance(one, Probe)]
    for candidate, first in _copies([c for c, _ in opened]):
        dropped[candidate.source] = f"the same bytes as {first.source}"
    opened = [(c, p) for c, p in opened if c.source not in dropped]
    kept = [c for c in good if c.source not in dropped]
    stored = [_stored(p, facts) for _, p in opened]
    scale = len(kept) / max(1, len(opened))
    probes = [p for _, p in opened]
    return {
        "path": str(path),
        "kind": "folder",
        "layout": found.layout,
        "base": found.base,
        "notes": list(found.notes) + _quirks(probes),
        "clips": len(kept),
        "opened": len(some),
        "files": len(found.clips),
        **_table([c.split or UNDECIDED for c in kept], [c.cls for c in kept], sorted({c.group for c in kept} - {""})),
        "sizes": _tally(f"{p.upright[0]} x {p.upright[1]}" for p in probes),
        "codecs": _tally(p.codec for p in probes),
        "rates": _tally(f"{p.fps:.6g}" for p in probes),
        "frames": _range([p.frames for p in probes]),
        "seconds": _range([p.seconds for p in probes]),
        "dropped": [{"source": name, "reason": reason} for name, reason in sorted(dropped.items())],
        "hdf5": {
            "resolution": facts.resolution,
            "stride": facts.stride,
            "min_frames": facts.min_frames,
            "frames": round(sum(stored) * scale),
            "bytes": round(sum(stored) * scale) * (facts.resolution**2 * 3 + 8),
            "estimated": len(some) < len(good),
            "free": shutil.disk_usage(path).free,
        },
    }


def _of_store(path: Path) -> dict[str, Any]:
    with FrameStore(path) as store:
        return {
            "path": str(path),
            "kind": "store",
            "layout": store.layout,
            "notes": [],
            "origin": store.origin,
            "sha256": store.sha256,
            "clips": len(store),
            **_table(store.splits, store.classes, store.groups),
            "sizes": {f"{store.shape[1]} x {store.shape[0]}": len(store)},
            "rates": _tally(f"{rate:.6g}" for rate in store.fps),
            "frames": _range(store.lengths.tolist()),
            "seconds": _range((store.lengths / store.fps).tolist()),
            "dropped": [{"source": name, "reason": reason} for name, reason in store.skipped],
            "hdf5": {"resolution": store.resolution, "frames": int(store.lengths.sum()), "bytes": path.stat().st_size},
        }


def describe(found: dict[str, Any]) -> str:
    """A survey, for people."""
    splits = counts(Counter(found["splits"]))
    lines = [f"{found['path']}: {found['clips']} clips ({splits})"]
    if found["kind"] == "store":
        lines[0] += f", {found['origin']}"
    if found["layout"]:
        inside = f", in {found['base']}/" if found.get("base") else ""
        lines.append(f"layout   {found['layout']}{inside}")
    lines += [f"         {note}" for note in found["notes"]]
    if found.get("opened", 0) < found["clips"] and found["kind"] == "folder":
        lines.append(f"opened   {found['opened']} of {found['files']} files, evenly spread; --probe 0 opens all")
    if found["clips"]:
        classes = {name: n for name, n in found["classes"].items() if name}
        if classes:
            lines.append(f"classes  {len(classes)}: {_most(classes)}")
        if found["groups"]:
            lines.append(f"groups   {len(found['groups'])} recordings; their clips stay on one side of a split")
        lines.append(f"size     {_most(found['sizes'])}")
        if "codecs" in found:
            lines.append(f"codec    {_most(found['codecs'])}")
        lines += [f"fps      {_most(found['rates'])}", f"frames   {_words(found['frames'])}"]
        lines.append(f"seconds  {_words(found['seconds'])}, {found['seconds']['sum']:.1f} in all")
    hdf5 = found["hdf5"]
    if found["kind"] == "store":
        lines += [f"HDF5     {size(hdf5['bytes'])}", f"sha256 {found['sha256']}"]
    else:
        about = "about " if hdf5["estimated"] else ""
        lines.append(
            f"HDF5     {about}{size(hdf5['bytes'])} to come: {hdf5['frames']} frames of {hdf5['resolution']} pixels, "
            f"stride {hdf5['stride']}; twice that until --prune; {size(hdf5['free'])} free here"
        )
    if found["dropped"]:
        why = Counter(_kind(d["reason"]) for d in found["dropped"])
        lines.append(f"dropped  {len(found['dropped'])}: {_most(why, 20)}")
        lines.append(f"{len(found['dropped'])} skipped: {reasons(_pairs(found), SETTLED)}")
    return "\n".join(lines)


def save(found: dict[str, Any], path: Path) -> None:
    """Write a survey as JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def refuse_empty(found: dict[str, Any]) -> None:
    """InputError where a survey found neither a clip nor anything to drop."""
    if not found["clips"] and not found["dropped"]:
        raise InputError(f"{found['path']}: no usable clip; no video in it; put some there")


def verify(path: str | Path) -> str:
    """Read every clip of a store and compare it with its hash. Raises InputError, which names what differs."""
    with FrameStore(path) as store, bar(len(store), "verify", "clips") as progress:
        bad = []
        for i, digest in enumerate(store.hashes):
            if clip_hash(store.read(i)) != digest:
                bad.append(store.sources[i])
            progress.advance()
    if bad:
        raise InputError(f"{path}: {len(bad)} clips are not what was written, such as {bad[0]}; {REMEDY}")
    return f"{path}: {len(store)} clips, all as they were written"


def examined(candidate: Candidate, facts: config.Dataset) -> Probe | str:
    """What a clip says of itself, or why it would be dropped."""
    try:
        found = examine(candidate, facts)
        fits(found.frames if not facts.fps else math.ceil(found.seconds * facts.fps), facts)
    except VideoError as error:
        return str(error)
    return found


def _copies(clips: list[Candidate]) -> Iterable[tuple[Candidate, Candidate]]:
    """Files with the bytes of an earlier one; only those of equal size are read."""
    sized: dict[int, list[Candidate]] = {}
    for clip in clips:
        if not clip.pictures:
            sized.setdefault(clip.path.stat().st_size, []).append(clip)
    for same in sized.values():
        first: dict[str, Candidate] = {}
        for clip in same if len(same) > 1 else []:
            digest = file_digest(clip)
            if digest in first:
                yield clip, first[digest]
            first.setdefault(digest, clip)


def _stored(found: Probe, facts: config.Dataset) -> int:
    """Frames of a clip that come into the store."""
    pictures = found.container == "pictures"
    frames = math.ceil(found.seconds * facts.fps) if facts.fps and not pictures else found.frames
    kept = math.ceil(frames / facts.stride)
    most = facts.max_frames or kept
    rest = kept % most
    return kept - rest + (rest if rest >= facts.min_frames else 0)


def _quirks(probes: list[Probe]) -> list[str]:
    """What is unusual, and what becomes of it."""
    what: dict[str, Callable[[Probe], bool]] = {
        "rotated: set upright": lambda p: bool(p.rotation) or p.orientation > 1,
        "interlaced: deinterlaced": lambda p: p.interlaced,
        "of variable frame rate: every frame is kept; 'fps' makes it constant": lambda p: p.variable,
        "of several video streams: the largest is taken": lambda p: p.streams > 1,
        "of more than 8 bits: rounded to 8": lambda p: DEEP.search(p.pixels) is not None,
        "with alpha: left away": lambda p: ALPHA.search(p.pixels) is not None,
        "grey: three equal channels": lambda p: p.pixels.startswith(("gray", "L", "I")),
    }
    found = {words: sum(map(test, probes)) for words, test in what.items()}
    return [f"{n} {words}" for words, n in found.items() if n]


def _table(splits: list[str], classes: list[str], groups: list[str]) -> dict[str, Any]:
    order = ordered(splits)
    tally = Counter(splits)
    return {"splits": {s: tally[s] for s in order}, "classes": _tally(classes), "groups": groups}


def ordered(splits: Iterable[str]) -> list[str]:
    return sorted(set(splits), key=lambda s: (SPLITS.index(s) if s in SPLITS else len(SPLITS), s))


def _tally(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0])))


def _range(values: list[float]) -> dict[str, float]:
    if not values:
        return {"min": 0, "median": 0, "max": 0, "sum": 0}
    return {"min": min(values), "median": float(np.median(values)), "max": max(values), "sum": sum(values)}


def _words(found: dict[str, float]) -> str:
    low, high = found["min"], found["max"]
    return f"{low:g}" if low == high else f"{low:g} to {high:g}, median {found['median']:g}"


def _most(tally: dict[str, int], most: int = 5) -> str:
    if len(tally) == 1:
        return next(iter(tally))
    shown = [f"{name} ({n})" for name, n in sorted(tally.items(), key=lambda pair: (-pair[1], pair[0]))[:most]]
    return ", ".join(shown + (["..."] if len(tally) > most else []))


def _kind(reason: str) -> str:
    """A reason without what differs from file to file."""
    return reason.split(":")[0].split(" (")[0].split(" as ")[0]


def _pairs(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(d["source"], d["reason"]) for d in found["dropped"]]
