"""What was computed once, in HDF5 files that are named by the hash of everything that they depend on.

So an old file is never read for something else; a damaged one is not read either, and made again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vidm.errors import InputError
from vidm.files import replacing

FOLDER = Path("runs/features")
VERSION = 4  # raise when a change of the code changes features


class Kept:
    """Arrays by name, kept under `facts`. folder None: nothing is read or written."""

    def __init__(self, facts: dict[str, Any], folder: Path | None = FOLDER) -> None:
        self.facts = json.dumps({**facts, "version": VERSION}, sort_keys=True)
        name = f"{hashlib.sha256(self.facts.encode()).hexdigest()[:32]}.h5"
        self.path = None if folder is None else folder / name

    def read(self) -> dict[str, np.ndarray] | None:
        """What `write` was given; None where there is no whole file of these facts."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            with h5py.File(self.path, "r") as file:
                facts, digest = file.attrs["facts"], file.attrs["sha256"]
                arrays = {name: file[name][()] for name in file}
        except (OSError, KeyError, ValueError, RuntimeError):
            return None
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        return arrays if (facts, digest) == (self.facts, _digest(arrays)) else None

    def write(self, arrays: dict[str, np.ndarray]) -> None:
        if self.path is None:
            return
        try:
            with replacing(self.path) as temporary, h5py.File(temporary, "w") as file:
                for name, array in arrays.items():
                    file.create_dataset(name, data=array)
                # Below the limit of an attribute: the facts of an index name every file.
                file.attrs["facts"], file.attrs["sha256"] = self.facts, _digest(arrays)
        except (InputError, OSError):
            pass  # a read-only project, or a full disk: the next measurement computes them again


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
