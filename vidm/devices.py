"""GPUs of this machine, shared by jobs that know nothing of each other: a lock for each device.

A job takes as many as it needs, waits where all are taken, and sees no other (CUDA_VISIBLE_DEVICES). A lock is held by
the process, not by a file's being there: whatever ends the process frees it. It goes by the device's own name, so that
the jobs of a cluster on one node, each of which may count its GPUs from 0, don't wait for each other.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vidm.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: no sharing, all else works
    fcntl = None

_taken: list[int] = []  # file descriptors; a lock lasts as long as its descriptor
_before: str | None = None  # CUDA_VISIBLE_DEVICES


def _installed() -> dict[str, str]:
    """{index: unique name} of the GPUs that the NVIDIA driver shows; empty without one."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    query = [tool, "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(line.replace(" ", "").split(",", 1) for line in said.splitlines() if "," in line)


def _usable(installed: dict[str, str]) -> dict[str, str]:
    """{value for CUDA_VISIBLE_DEVICES: unique name} of the GPUs that this process may use.

    Where CUDA_VISIBLE_DEVICES is set, these are its entries; else all that are installed.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return {name: name for name in installed.values()}
    entries = [entry.strip() for entry in given.split(",")]
    return {entry: installed.get(entry, entry) for entry in entries if entry and entry != "-1"}


def take(count: int | None = None) -> None:
    """Take GPUs until this process, or what it becomes by `exec`, ends; wait where others have them.

    count: None takes one where there is one. Raises InputError where there are fewer than asked for.
    """
    global _before
    if count == 0 or _taken or fcntl is None or "LOCAL_RANK" in os.environ:  # torchrun's parent has them
        return
    installed = _installed()
    if "SLURM_JOB_ID" in os.environ and not installed:
        return  # no names of their own: the numbers of two jobs may be equal, their GPUs are not
    gpus = _usable(installed)
    if len(gpus) < (count or 0):
        raise InputError(
            f"{count} GPUs asked for, {len(gpus)} here; lower running.gpus, or name them in CUDA_VISIBLE_DEVICES"
        )
    wanted, waited = count or min(1, len(gpus)), False
    while wanted:
        free = {entry: lock for entry, name in gpus.items() if (lock := _lock(name)) is not None}
        for lock in list(free.values())[wanted:]:
            os.close(lock)
        if len(free) >= wanted:
            _before = os.environ.get("CUDA_VISIBLE_DEVICES")
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(list(free)[:wanted])
            _taken.extend(list(free.values())[:wanted])
            return
        # None is kept while waiting: two jobs with half of what they need each would wait for ever.
        for lock in free.values():
            os.close(lock)
        if not waited:
            print(f"vidm: waits for {wanted} of {len(gpus)} GPUs; the others have them", file=sys.stderr, flush=True)
        waited = True
        time.sleep(random.uniform(0.2, 0.6))


def release() -> None:
    """Let go of what `take` took: the end of a command that is not the end of its process."""
    if not _taken:
        return
    while _taken:
        os.close(_taken.pop())
    os.environ.pop("CUDA_VISIBLE_DEVICES")
    if _before is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = _before


def table() -> str:
    """The GPUs that this process may use, and which of them a job of this user has."""
    lines = []
    for entry, name in _usable(_installed()).items():
        lock = _lock(name) if fcntl else None
        if lock is not None:
            os.close(lock)
        lines.append(f"{entry:<44}{'free' if lock is not None else 'taken'}")
    return "\n".join(lines) or "no GPU; training, sampling and metrics run on the CPU"


def run(count: int, command: list[str]) -> None:
    """Become `command`, with `count` GPUs taken. Raises InputError where it can't be run."""
    take(count)
    for lock in _taken:
        os.set_inheritable(lock, True)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise InputError(f"{command[0]}: can't be run ({error.strerror})") from None


def _lock(name: str) -> int | None:
    """A descriptor that holds the lock of a GPU, or None where another process does."""
    folder = Path(tempfile.gettempdir()) / f"vidm-gpus-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(folder / name.replace("/", "-"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise InputError(f"{folder}: no lock for a GPU can be made there ({error.strerror}); set TMPDIR") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
