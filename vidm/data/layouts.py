"""A folder as it was downloaded: which files are clips, of which split, class and group. Nothing is opened.

    sky-timelapse  sky_train|sky_test/<id>/<id>_<k>/*.jpg; or train|val|test/<id>/<id>_<k>/*.jpg
    ucf101         UCF-101/<Class>/v_<Class>_gNN_cNN.avi, with ucfTrainTestlist/ inside or beside
    taichi         train|test/<id>#<start>#<end>.mp4, or a folder of pictures of that name
    clevrer        video_train|video_validation|video_test/video_XXXXX-YYYYY/video_NNNNN.mp4
    frame-folders  a folder of numbered pictures for each clip
    videos         any other folder

The last two take their split from train/, val/ and test/ where these are there. A clip is a video file, or a folder
of two or more .jpg or .png, in the order of the numbers in their names. Fast to import, and fast on 100 000 files:
the workflow asks it, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vidm.data import published
from vidm.errors import InputError

SPLITS = published.SPLITS
LAYOUTS = (*published.RULES, "frame-folders", "videos")
PICTURES = (".jpg", ".jpeg", ".png")
VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".ts", ".gif")
ARCHIVES = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst")
EMPTY = "an empty folder"
ENDS = 4096  # bytes read at either end of a file, to see whether it was replaced


@dataclass(frozen=True)
class Candidate:
    """What may be a clip. split: None where nothing names one; reason: why it can't be taken, or "".

    cls: class name, or "". group: clips of one group (a recording) stay on one side of a split; "" is none.
    pictures: how many, where the path is a folder of pictures; 0 for a video file.
    """

    path: Path
    split: str | None
    cls: str
    source: str  # path below the folder, with "/", undecodable bytes escaped
    reason: str = ""
    pictures: int = 0
    group: str = ""


@dataclass(frozen=True)
class Found:
    """A folder as it was understood. base: where in it the layout begins, "" for itself; notes: for people."""

    layout: str
    base: str
    clips: list[Candidate]
    notes: tuple[str, ...] = ()


def find(folder: str | Path, layout: str = "detect", fold: int = 1) -> Found:
    """Every file below `folder` that may be a clip, by source name.

    Hidden files, README*, *.dvc and manifest.json are passed over. A link that leads out of the folder is
    listed with its reason and not followed. `layout` is one of LAYOUTS, or "detect"; `fold`: which of UCF-101's
    three lists. Raises InputError where there is no such folder, or it is not of the layout named.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; put videos there, or name another one")
    entries = list(_walk(os.fspath(root), ()))
    name, base, rule = _rule(root, layout, fold)
    if rule is None:
        base = _split_folder(root)
        rule = published.generic(base)
        if name == "detect":
            only = all(e.pictures or e.reason for e in entries) and any(e.pictures for e in entries)
            name = "frame-folders" if only else "videos"
    below, frames, clips = base.relative_to(root).parts, any(e.pictures for e in entries), []
    for entry in entries:
        if entry.reason == EMPTY and not frames:  # of a data set of folders, an empty one is a clip that is gone
            continue
        if entry.parts[: len(below)] == below:
            place = rule.place(entry.parts[len(below) :], bool(entry.pictures))
        else:
            place = published.outside(entry.parts)
        if place is None:
            continue
        source = _readable("/".join(entry.parts) or ".")
        reason = entry.reason or _unfit(entry) or place.reason
        path = root.joinpath(*entry.parts)
        cls, group = _readable(place.cls), _readable(place.group)
        clips.append(Candidate(path, place.split, cls, source, reason, entry.pictures, group))
    clips.sort(key=lambda candidate: candidate.source)
    return Found(name, "/".join(below), clips, tuple(rule.notes()))


def _readable(name: str) -> str:
    """A name of the file system as text that a store holds: bytes that are not UTF-8 as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def find_clips(folder: str | Path, layout: str = "detect", fold: int = 1) -> list[Candidate]:
    """The clips of `find`."""
    return find(folder, layout, fold).clips


def has_videos(folder: str | Path) -> bool:
    """Whether there is any file in `folder` that may be a clip; False where there is no folder."""
    return Path(folder).is_dir() and any(e.reason != EMPTY for e in _walk(os.fspath(folder), ()))


def frame_files(folder: Path) -> list[Path]:
    """The pictures of a frame folder, by the numbers in their names: 2 before 10."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if _is_picture(e)]
    return [folder / name for name in sorted(names, key=_by_number)]


def listing(folder: str | Path, layout: str = "detect", fold: int = 1) -> str:
    """A hash of a folder of clips: names, splits, sizes, first and last bytes.

    Times don't count: git and `dvc checkout` set them anew. Whole files would be a second extraction.
    """
    if not has_videos(folder):
        return "none"
    digest = hashlib.sha256()
    clips = find_clips(folder, layout, fold)
    for clip in clips:
        known: list = [clip.source, clip.split, clip.cls, clip.reason]
        if not clip.reason:
            files = frame_files(clip.path) if clip.pictures else [clip.path]
            known += [path.name for path in files] if clip.pictures else []
            for path in {files[0]: 0, files[-1]: 0}:
                known += _ends(path)
        digest.update(json.dumps(known).encode())
    return f"{len(clips)} files, {digest.hexdigest()[:16]}"


def _ends(path: Path) -> list:
    try:
        with path.open("rb") as file:
            start, size = file.read(ENDS).hex(), file.seek(0, os.SEEK_END)
            file.seek(max(0, size - ENDS))
            return [start, size, file.read(ENDS).hex()]
    except OSError as error:
        return [error.strerror]


def _rule(root: Path, layout: str, fold: int) -> tuple[str, Path, published.Rule | None]:
    """The published layout that is there or was named, and where; (_, _, None) for a folder of anything."""
    bases = list(_bases(root))
    for name, make in published.RULES.items():
        if layout in ("detect", name):
            for base in bases:
                if rule := make(base, root, fold):
                    return name, base, rule
            if layout == name:
                raise InputError(
                    f"{root}: not of the layout '{name}' ({make.__doc__}); leave 'layout' away to detect it"
                )
    return layout, root, None


def _bases(root: Path) -> Iterator[Path]:
    """The folder itself, then what it wraps: `sky_timelapse/sky_train` is found from above, too."""
    here = root
    for _ in range(4):
        yield here
        with os.scandir(here) as entries:
            seen = [e for e in entries if not _ignored(e.name) and e.name != published.LISTS]
        folders = [e.name for e in seen if e.is_dir(follow_symlinks=False)]
        if len(folders) != 1 or any(e.is_file() and not e.name.endswith((*ARCHIVES, ".txt", ".csv")) for e in seen):
            return
        here = here / folders[0]


def _split_folder(root: Path) -> Path:
    """The folder with train/ or test/ in it, where it is wrapped in others; else the root."""
    return next((base for base in _bases(root) if published.names_split(base)), root)


@dataclass(frozen=True)
class _Entry:
    parts: tuple[str, ...]
    reason: str = ""
    pictures: int = 0


def _walk(folder: str, parts: tuple[str, ...], root: str = "") -> Iterator[_Entry]:
    """Files, links and folders of pictures below a folder."""
    root = root or folder
    try:
        with os.scandir(folder) as entries:
            every = list(entries)
    except OSError as error:
        yield _Entry(parts, f"can't be read ({error.strerror})")
        return
    if not every and parts:
        yield _Entry(parts, EMPTY)
        return
    seen = sorted((e for e in every if not _ignored(e.name)), key=lambda e: e.name)
    pictures = sum(map(_is_picture, seen))
    beside = pictures > 1 and any(e.name.lower().endswith(VIDEOS) for e in seen)
    if pictures > 1 and not beside:
        yield _Entry(parts, pictures=pictures)
    folders = []
    for e in seen:
        if e.is_symlink():
            yield _Entry((*parts, e.name), _refused(Path(e.path), Path(root)))
        elif e.is_dir(follow_symlinks=False):
            folders.append(e)
        elif not e.is_file(follow_symlinks=False):
            yield _Entry((*parts, e.name), "not a regular file")
        elif pictures > 1 and _is_picture(e):
            if beside:
                yield _Entry((*parts, e.name), "a picture among videos; frames of a clip need a folder of their own")
        else:
            yield _Entry((*parts, e.name))
    for e in folders:
        yield from _walk(e.path, (*parts, e.name), root)


def _is_picture(entry: os.DirEntry) -> bool:
    return (
        entry.name.lower().endswith(PICTURES)
        and not _ignored(entry.name)
        and not entry.is_symlink()
        and entry.is_file(follow_symlinks=False)
    )


def _by_number(name: str) -> list:
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)]


def _ignored(name: str) -> bool:
    return name.startswith((".", "README")) or name.endswith(".dvc") or name == "manifest.json"


def _unfit(entry: _Entry) -> str:
    archive = entry.parts and not entry.pictures and entry.parts[-1].lower().endswith(ARCHIVES)
    return "an archive; unpack it first" if archive else ""


def _refused(path: Path, root: Path) -> str:
    """Why a link is not opened, or ""."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return "a link that leads nowhere"
    if not target.is_relative_to(root.resolve()):
        return "a link out of the folder; not followed"
    if target.is_dir():
        return "a link to a folder; its files are found where they are"
    return "" if target.is_file() else "not a regular file"
