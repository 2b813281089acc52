"""Trained networks as files: safetensors, with everything that rebuilds the network in the metadata.

Metadata: `part` (content | motion), `facts` (the part's configuration, JSON), `size` (pixels), `frames` (time grid), and what
the trainer adds: experiment, step, ema, data_sha256, spynet_sha256, model_version, versions.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from vidm.config import Content, Motion
from vidm.files import replacing
from vidm.errors import InputError
from vidm.models.content import ContentNetwork
from vidm.models.motion import MotionNetwork


def build(part: str, facts: Content | Motion, size: int, frames: int) -> nn.Module:
    """A fresh network of an experiment's part."""
    return ContentNetwork(facts, size) if part == "content" else MotionNetwork(facts, size, frames)


def save(network: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Write weights and metadata (strings) beside `path`, then rename."""
    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    with replacing(path) as temporary:
        save_file(state, temporary, metadata=metadata)


def load(path: Path, part: str, device: torch.device) -> tuple[nn.Module, dict[str, str]]:
    """(network in eval mode, metadata) of a file that `save` wrote.

    Raises InputError where the file is missing, is not one of ours, or is of another part.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not readable as safetensors ({error}); train it with vidm train {part}") from None
    if metadata.get("part") != part:
        found = metadata.get("part", "something else")
        raise InputError(f"{path}: holds {found}, not a {part} network; give the file of vidm train {part}")
    facts = {"content": Content, "motion": Motion}[part].model_validate_json(metadata["facts"])
    network = build(part, facts, int(metadata["size"]), int(metadata["frames"]))
    network.load_state_dict(state, strict=True)
    return network.to(device, memory_format=torch.channels_last).eval(), metadata


def facts_json(facts: Content | Motion) -> str:
    return json.dumps(facts.model_dump(mode="json"), sort_keys=True)


def file_sha256(path: Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
