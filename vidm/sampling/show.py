"""`vidm export`: some videos of a store as one picture for people, beside real ones where wanted."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from vidm.data.store import FrameStore
from vidm.errors import InputError
from vidm.sampling import groups
from vidm.sampling.export import contact_sheet, grid, write_moving
from vidm.sampling.run import SHEET_FPS

KINDS = (".mp4", ".gif", ".webp", ".png")
VIDEOS = 8  # where no numbers are given


def numbers(text: str) -> list[int]:
    """[0, 1, 2, 7] of "0-2,7". Raises InputError."""
    found: list[int] = []
    for part in text.split(","):
        bounds = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not bounds:
            raise InputError(f"--videos '{text}': is not a list such as 0-3,7")
        first, last = int(bounds[1]), int(bounds[2] or bounds[1])
        if last < first:
            raise InputError(f"--videos '{text}': {part.strip()} ends before it begins; give {last}-{first}")
        found += range(first, last + 1)
    return found


def export(
    store: Path, out: Path, videos: list[int] | None, every: int, beside: Path | None, columns: int, side: int
) -> str:
    """Videos (by number in the file; None: the first ones) of a store, as `out` says by its ending: a moving grid, or
    for .png a filmstrip of every `every`-th frame. `beside`: a store whose test clips are set against them. Returns
    what was written.

    Raises InputError: another ending, a video that is not there, frames of another size.
    """
    kind = out.suffix.lower()
    if kind not in KINDS:
        raise InputError(f"{out}: ends in none of {', '.join(KINDS)}")
    if videos is None:
        videos = list(range(min(VIDEOS, len(FrameStore(store)))))
    rows = {"generated" if beside else "": _read(store, videos, None)}
    if beside is not None:
        frames = len(rows["generated"][0])
        rows["real"] = [clip[:frames] for clip in _read(beside, range(len(videos)), "test")]
        if rows["real"][0].shape[1:] != rows["generated"][0].shape[1:]:
            raise InputError(f"{beside}: frames of another size than those of {store}; compare what has one size")
    note = _provenance(store, videos) | ({"beside": FrameStore(beside).sha256} if beside else {})
    clips = [clip for part in rows.values() for clip in part]
    if kind == ".png":
        names = [name for name, part in rows.items() for _ in part] if beside else []
        contact_sheet(out, clips, note, every, side, names)
    else:  # real ones to the right of generated ones
        parts = [grid(part, columns, side) for part in rows.values()]
        frames = min(map(len, parts))
        rule = np.full((frames, parts[0].shape[1], 8, 3), 128, np.uint8)
        joined = [part[:frames] for part in parts]
        whole = joined[0] if len(joined) == 1 else np.concatenate([joined[0], rule, joined[1]], axis=2)
        write_moving(out, whole, SHEET_FPS, note)
    return f"{out}: {len(videos)} videos" + (f" beside {len(rows['real'])} real ones" if beside else "")


def _read(path: Path, videos: range | list[int], split: str | None) -> list[np.ndarray]:
    with FrameStore(path) as store:
        inside = store.indices(split if split in store.splits else None)
        for k in videos:
            if not 0 <= k < len(inside):
                raise InputError(f"{path}: no video {k}; it has 0..{len(inside) - 1}")
        return [store.read(inside[k]) for k in videos]


def _provenance(path: Path, videos: list[int]) -> dict[str, str]:
    """`videos` are those of their `seed`, or of one for each; of what `vidm sample` did not make, rows of the file."""
    note = {"store": FrameStore(path).sha256, "videos": ",".join(map(str, videos))}
    try:
        about = groups.notes(path)
    except InputError:
        return note  # real videos
    made = groups.addresses(about["sampling"])
    seeds, of_each = zip(*(map(str, made[k]) for k in videos), strict=True)
    note |= {"experiment": about["experiment"], "videos": ",".join(of_each)}
    note["seed"] = ",".join(seeds if len(set(seeds)) > 1 else seeds[:1])
    return note | {part: facts["sha256"] for part, facts in about["checkpoints"].items()}
