"""Files are written beside their name and renamed: nothing half-written, nothing lost."""

from __future__ import annotations

import os
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vidm.errors import InputError

STALE = 3600  # seconds after which a temporary file is nobody's any more


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it at a clean exit; removed, the old file kept, otherwise.

    Makes the folder. Raises InputError where nothing can be written there.
    """
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    check_file(path)
    with _said(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors puts a file for its owner alone in its place
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path, pattern: str) -> None:
    """Remove temporary files that a killed process left."""
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > STALE:
                path.unlink()


def check_file(path: Path) -> None:
    """InputError where no file can have this name: a folder has it. For the start of what takes long."""
    with _said(path):
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give a file's name")
        _refuse_files(path, path.parents)


def check_folder(path: Path) -> None:
    """InputError where no folder can have this name: a file has it, or a part of it."""
    with _said(path):
        _refuse_files(path, (path, *path.parents))


def _refuse_files(path: Path, folders: Iterable[Path]) -> None:
    for folder in folders:
        if folder.exists() and not folder.is_dir():
            said = "is" if folder == path else f"{folder} is"
            raise InputError(f"{path}: {said} a file, no folder; choose another place")


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """What the system refuses is one line, not a traceback."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: can't be written ({error.strerror}); choose another place") from None
