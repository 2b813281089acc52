"""A folder of videos: which files are clips, of which split. Fast to import: the workflow asks it, too.

Known so far: a plain folder, and one with train/, test/ and perhaps val/ in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vidm.errors import InputError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Candidate:
    """A file that may be a video. split: None where the folder names none; reason: why it can't be taken, or "".

    cls: the folder it lies in, the first one below the split; "" where it lies in none.
    """

    path: Path
    split: str | None
    cls: str
    source: str  # path below the folder, with "/", undecodable bytes escaped
    reason: str = ""


def find_clips(folder: str | Path) -> list[Candidate]:
    """Every file below `folder` that may be a video, by source name; nothing is opened.

    Hidden files, README*, *.dvc and manifest.json are passed over. A link that leads out of the folder is
    listed with its reason and not followed. Raises InputError where there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; put videos there, or name another one")
    named = any((root / split).is_dir() for split in ("train", "test"))
    found = []
    for path in _walk(root):
        parts = path.relative_to(root).parts
        source = os.fsencode("/".join(parts)).decode("utf-8", "backslashreplace")
        split = parts[0] if named and len(parts) > 1 and parts[0] in SPLITS else None
        reason = _refused(path, root)
        if named and split is None and not reason:
            reason = f"beside {', '.join(s + '/' for s in SPLITS if (root / s).is_dir())}: of which split?"
        inside = parts[1:] if split else parts
        found.append(Candidate(path, split, inside[0] if len(inside) > 1 else "", source, reason))
    return sorted(found, key=lambda candidate: candidate.source)


def has_videos(folder: str | Path) -> bool:
    """Whether there is any file in `folder` that may be a video; False where there is no folder."""
    root = Path(folder)
    return root.is_dir() and next(_walk(root), None) is not None


def _ignored(name: str) -> bool:
    return name.startswith((".", "README")) or name.endswith(".dvc") or name == "manifest.json"


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root, followlinks=False):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if not _ignored(name))
        links = [name for name in folders if (here / name).is_symlink()]
        yield from (here / name for name in sorted([*files, *links]) if not _ignored(name))


def _refused(path: Path, root: Path) -> str:
    """Why a path is not opened, or ""."""
    if path.is_symlink():
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            return "a link that leads nowhere"
        if not target.is_relative_to(root.resolve()):
            return "a link out of the folder; not followed"
        if target.is_dir():
            return "a link to a folder; its files are found where they are"
    return "" if path.is_file() else "not a regular file"
