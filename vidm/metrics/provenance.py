"""Where a report comes from: versions, the hash of this code, the lock file, and writing it all down."""

from __future__ import annotations

import hashlib
import json
import platform
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from vidm import __version__
from vidm.archives import sha256
from vidm.errors import InputError
from vidm.files import replacing

PACKAGE = Path(__file__).parents[1]


def versions(device: torch.device) -> dict[str, str | None]:
    """Of everything that decides the last digits. lock: sha256 of constraints.txt, in a checkout."""
    return {
        "vidm": __version__,
        "code": _code(),
        "lock": sha256(PACKAGE.parent / "constraints.txt"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": device.type,
    }


@cache
def _code() -> str:
    """sha256 (hex) of this package's source files."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def made_by(samples: Path, experiment: str) -> dict[str, Any]:
    """`checkpoints` and `sampling` as `vidm sample` noted them in its store.

    Raises InputError where it is none, or one of another experiment.
    """
    try:
        with h5py.File(samples, "r") as file:
            found = {key: json.loads(file.attrs[key]) for key in ("checkpoints", "sampling", "experiment")}
    except FileNotFoundError:
        raise InputError(f"{samples}: no such file; make it with vidm sample") from None
    except (OSError, KeyError, ValueError):
        raise InputError(f"{samples}: not a store that vidm sample wrote; make it again") from None
    if (of := found.pop("experiment")) != experiment:
        raise InputError(f"{samples}: videos of '{of}', not of '{experiment}'; name that, or sample {experiment}")
    return found


def write(path: Path, report: dict[str, Any]) -> None:
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
