"""Trained networks as files: safetensors, with everything that rebuilds the network in the metadata.

Notes: `part` (content | motion), `facts` (the part's configuration), `size` (pixels), `frames` (time grid), `classes`
({name: clips}, empty without class conditioning), and what the trainer adds: experiment, step, samples, ema,
data_sha256, model_version, versions. They are one JSON text under
one metadata key: the format writes several keys in no fixed order, and the file's hash is part of a report.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from vidm.config import Content, Motion
from vidm.errors import InputError
from vidm.files import replacing
from vidm.models.content import ContentNetwork
from vidm.models.motion import MotionNetwork

KEY = "vidm"


def build(part: str, facts: Content | Motion, size: int, frames: int, classes: int = 0) -> nn.Module:
    """A fresh network of an experiment's part."""
    if part == "content":
        return ContentNetwork(facts, size, classes)
    return MotionNetwork(facts, size, frames, classes)


def save(network: nn.Module, path: Path, notes: dict[str, Any]) -> None:
    """Write weights and notes beside `path`, then rename. The same weights and notes give the same bytes."""
    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    with replacing(path) as temporary:
        save_file(state, temporary, metadata={KEY: json.dumps(notes, sort_keys=True)})


def load(path: Path, part: str, device: torch.device) -> tuple[nn.Module, dict[str, Any]]:
    """(network in eval mode, notes) of a file that `save` wrote.

    Raises InputError where the file is missing, is not one of ours, or is of another part.
    """
    try:
        with safe_open(path, "pt") as file:
            notes = json.loads((file.metadata() or {}).get(KEY, "{}"))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not readable as safetensors ({error}); train it with vidm train {part}") from None
    if notes.get("part") != part:
        found = notes.get("part", "something else")
        raise InputError(f"{path}: holds {found}, not a {part} network; give the file of vidm train {part}")
    if "frames" not in notes:
        raise InputError(
            f"{path}: its time grid is not in it (frames), without which frame n has no place; train it again, or "
            "convert it with vidm weights import-official --frames"
        )
    try:
        facts = {"content": Content, "motion": Motion}[part].model_validate(notes["facts"])
        network = build(part, facts, notes["size"], notes["frames"], len(notes["classes"]))
        network.load_state_dict(state, strict=True)
    except (KeyError, ValidationError, RuntimeError):
        raise InputError(f"{path}: made by another version of vidm; train it again with vidm train {part}") from None
    return network.to(device, memory_format=torch.channels_last).eval(), notes


def file_sha256(path: Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
