"""What a run has made so far, group by group, and one file of it in the end.

    runs/{experiment}/samples-{hash}/000032-000063.h5    a whole group
                                     000032-000063.done  the same, when it is in its shard's file

The hash covers all that decides about the videos, so that nothing of another run is taken for this one's. A killed run
goes on at its next group, whatever shard it is in; all shards of a run share the folder, which counts them.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py

from vidm.data.store import FrameStore, StoreWriter
from vidm.errors import InputError
from vidm.files import sweep


def cut(videos: range, size: int) -> list[range]:
    """Groups of `size` videos; the last one may be smaller."""
    return [range(k, min(k + size, videos.stop)) for k in range(videos.start, videos.stop, size)]


def shard(videos: int, k: int, shards: int) -> range:
    """The videos of shard k of 1..shards: as equal as can be, and in order."""
    return range((k - 1) * videos // shards, k * videos // shards)


class Kept:
    """The groups of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, group: range) -> Path:
        return self.folder / f"{group.start:06d}-{group.stop - 1:06d}.h5"

    def whole(self, group: range) -> bool:
        """Whether a group is there, readable and of the right number of videos."""
        try:
            return len(FrameStore(self.path(group))) == len(group)
        except InputError:
            return False

    def videos(self) -> int:
        """Videos that are done, over all shards."""
        return sum(map(len, set(self._finished().values())))

    def _finished(self) -> dict[Path, range]:
        """The videos that each file stands for. The names of those still being written begin with a dot."""
        files = (p for kind in ("h5", "done") for p in self.folder.glob(f"[0-9]*-[0-9]*.{kind}"))
        bounds = {p: map(int, p.stem.split("-")) for p in files}
        return {p: range(first, last + 1) for p, (first, last) in bounds.items()}

    def settle(self, groups: Iterable[range]) -> None:
        """Note that these are in a file of their shard, and drop them here."""
        for group in groups:
            path = self.path(group)
            path.with_suffix(".done").touch()
            path.unlink(missing_ok=True)

    def drop(self, videos: range) -> None:
        """The groups that lie within these videos. Others are those of a longer call, or of other shards."""
        for path, there in self._finished().items():
            if there[0] in videos and there[-1] in videos:
                path.unlink(missing_ok=True)
        sweep(self.folder, ".*.tmp")
        with suppress(OSError):
            self.folder.rmdir()  # where nothing is left in it


def copy_clips(paths: Iterable[Path], out: StoreWriter) -> None:
    """All clips of some stores, one after the other and one at a time in memory."""
    for path in paths:
        with FrameStore(path) as store:
            for i in range(len(store)):
                out.add(
                    store.read(i),
                    fps=float(store.fps[i]),
                    stride=int(store.strides[i]),
                    split=store.splits[i],
                    source=store.sources[i],
                    cls=store.classes[i],
                )


def notes(path: Path) -> dict[str, Any]:
    """What `vidm sample` noted in a file: `sampling`, `checkpoints`, `experiment`, and `run`, of the groups' folder.

    `total`: the videos of all shards; None in files of earlier versions. Raises InputError where it is none.
    """
    try:
        with h5py.File(path, "r") as file:
            found = {key: json.loads(file.attrs[key]) for key in ("sampling", "checkpoints", "run", "experiment")}
            return found | {"total": json.loads(file.attrs.get("total", "null"))}
    except (OSError, KeyError, ValueError):
        raise InputError(f"{path}: not a file of vidm sample, or not a whole one; make it again") from None


def numbers(facts: dict[str, Any]) -> range:
    """The videos in a file, of its `sampling`."""
    first, last = facts["seeds"]["videos"]
    return range(first, last + 1)


def addresses(facts: dict[str, Any]) -> list[tuple[int, int]]:
    """(seed, video) of each clip in a file, of its `sampling`."""
    seeds = facts["seeds"]
    every, each = seeds.get("seeds", [seeds["seed"]]), seeds.get("each", sys.maxsize)
    return [(every[k // each], k % each) for k in numbers(facts)]


def refuse_overlap(target: Path, seed: int, videos: range) -> None:
    """InputError where another file beside `target` holds some of these videos already."""
    for path in _others(target):
        try:
            facts = notes(path)["sampling"]
        except InputError:
            continue  # something else, or still being written
        there = numbers(facts)
        if facts["seeds"]["seed"] == seed and there.start < videos.stop and videos.start < there.stop:
            raise InputError(
                f"{path}: holds videos {there.start}..{there.stop - 1} of seed {seed}, {target.name} would hold "
                f"{videos.start}..{videos.stop - 1}; remove it, or choose another folder or --seed"
            )


def _others(target: Path) -> Iterator[Path]:
    return (p for p in sorted(target.parent.glob("*.h5")) if p.name != target.name and not p.name.startswith("."))


def room(needs: dict[Path, int]) -> str:
    """What will be written where and what is free there, in words. InputError where it does not fit."""
    disks: dict[int, list] = {}
    for path, size in needs.items():
        there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        entry = disks.setdefault(there.stat().st_dev, [0, there, path])
        entry[0] += size
    said = []
    for size, there, path in disks.values():
        free = shutil.disk_usage(there).free
        if size > free:
            raise InputError(
                f"{path}: needs {words(size)}, {words(free)} are free on its disk; make room or sample fewer"
            )
        said.append(f"{words(size)} of disk at most, {words(free)} free")
    return "; ".join(said)


def words(size: float) -> str:
    """Bytes for people."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
