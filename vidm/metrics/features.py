"""Detector features of clips: in batches, in one pass, and kept on disk where they don't depend on a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from vidm.errors import InputError
from vidm.files import replacing
from vidm.metrics.frechet import Moments, frechet_distance
from vidm.metrics.i3d import CLASSES, I3D
from vidm.metrics.protocol import Protocol, preprocess

BATCH = 4  # clips, about 0.1 GB each; more is no faster on idle cores (benchmarks/i3d.py)
FOLDER = Path("runs/features")
VERSION = 1  # raise when a change of the code changes features


class Extractor:
    """Collects clips into batches, one series per set, and runs the detector over them.

    Each set has its own batches, so that its features don't depend on which other sets are measured with it.
    """

    def __init__(self, model: I3D, protocol: Protocol, advance: Callable[[int], None] | None = None) -> None:
        self.model, self.protocol, self.advance = model, protocol, advance
        self.device = next(model.parameters()).device
        self._waiting: dict[str, list[Tensor]] = {}
        self._features: dict[str, list[np.ndarray]] = {}

    def add(self, name: str, clip: np.ndarray, still: bool = False) -> None:
        """A clip (T,H,W,3) uint8 for the set `name`. still: only its first frame, repeated T times."""
        frames = len(clip)
        x = preprocess(clip[None, :1] if still else clip[None], self.protocol)
        self._waiting.setdefault(name, []).append(x.expand(-1, -1, frames, -1, -1) if still else x)
        if len(self._waiting[name]) == BATCH:
            self._run(name)

    def features(self, name: str) -> np.ndarray:
        """(N,400) float32 of all clips of a set, in the order that they came."""
        if self._waiting.get(name):
            self._run(name)
        return np.concatenate(self._features.get(name) or [np.zeros((0, CLASSES), np.float32)])

    @torch.inference_mode()
    def _run(self, name: str) -> None:
        batch = self._waiting.pop(name)
        logits = self.model(torch.cat([x.to(self.device) for x in batch]))
        self._features.setdefault(name, []).append(logits.cpu().numpy())
        if self.advance:
            self.advance(len(batch))


def distance(real: np.ndarray, fake: np.ndarray, protocol: Protocol) -> float:
    """The FVD of features (N,400) and (M,400), with the protocol's covariance. InputError below 2 of each."""
    sides = []
    for features in (real, fake):
        moments = Moments().update(features)
        sides += [moments.mean, moments.covariance(protocol.ddof)]
    return frechet_distance(*sides)


def motion(clip: np.ndarray) -> float:
    """Mean |x_n - x_(n-1)| of a clip (T,H,W,3) uint8, over frames, pixels and channels: grey levels, 0..255."""
    steps = np.abs(clip[1:].astype(np.int16) - clip[:-1].astype(np.int16))
    return float(steps.mean()) if len(steps) else 0.0


class Kept:
    """Features in a file whose name is the hash of everything that they depend on.

    So an old file is never read for something else; a damaged one is not read either.
    """

    def __init__(self, facts: dict[str, Any], folder: Path = FOLDER) -> None:
        self.facts = json.dumps({**facts, "version": VERSION}, sort_keys=True)
        self.path = folder / f"{hashlib.sha256(self.facts.encode()).hexdigest()[:32]}.safetensors"

    def read(self) -> dict[str, np.ndarray] | None:
        """What `write` was given; None where there is no whole file of these facts."""
        try:
            with safe_open(self.path, framework="np") as file:
                note = json.loads((file.metadata() or {}).get("features", "{}"))
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError):
            return None
        whole = note == {"facts": self.facts, "sha256": _digest(arrays)}
        return arrays if whole else None

    def write(self, arrays: dict[str, np.ndarray]) -> None:
        note = json.dumps({"facts": self.facts, "sha256": _digest(arrays)})
        try:
            with replacing(self.path) as temporary:
                save_file(arrays, temporary, metadata={"features": note})
        except InputError:
            pass  # a read-only project: the next evaluation computes them again


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
