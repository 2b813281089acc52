"""Trained networks as files: safetensors, with everything that rebuilds the network in the metadata.

Notes: `part` (content | motion), `facts` (the part's configuration), `size` (pixels), `frames` (time grid), `classes`
({name: clips}, empty without class conditioning), and what the trainer adds: experiment, step, samples, ema,
data_sha256, model_version, versions. They are one JSON text under
one metadata key: the format writes several keys in no fixed order, and the file's hash is part of a report.
"""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vidm import weights
from vidm.config import SPYNETS, Content, Motion
from vidm.errors import InputError
from vidm.files import replacing
from vidm.models.content import ContentNetwork
from vidm.models.motion import MotionNetwork

KEY = "vidm"
SPYNET = "spynet."  # how names of its tensors start


def build(part: str, facts: Content | Motion, size: int, frames: int, classes: int = 0) -> nn.Module:
    """A fresh network of an experiment's part."""
    if part == "content":
        return ContentNetwork(facts, size, classes)
    return MotionNetwork(facts, size, frames, classes)


def save(network: nn.Module, path: Path, notes: dict[str, Any]) -> None:
    """Write weights and notes beside `path`, then rename. The same weights and notes give the same bytes.

    Raises OSError where the disk is full.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    with replacing(path) as temporary:
        try:
            save_file(state, temporary, metadata={KEY: json.dumps(notes, sort_keys=True)})
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error)) from None


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
        network.load_state_dict(state | _shared(path, network, state, notes), strict=True)
    except (KeyError, ValidationError, RuntimeError):
        raise InputError(f"{path}: made by another version of vidm; train it again with vidm train {part}") from None
    return network.to(device, memory_format=torch.channels_last).eval(), notes


def shares_spynet(notes: dict[str, Any]) -> bool:
    """Whether a motion network's SpyNet is, unchanged, the one that comes with the package."""
    facts = Motion.model_validate(notes["facts"])
    entry = weights.REGISTRY.get(SPYNETS.get(facts.spynet, ""))
    fixed = facts.sees_flow and not facts.spynet_finetuned
    return fixed and isinstance(entry, weights.Shipped) and notes.get("spynet_sha256") == entry.sha256


def _shared(path: Path, network: nn.Module, state: dict[str, Tensor], notes: dict[str, Any]) -> dict[str, Tensor]:
    """The package's SpyNet, for a file that was packed without it. Raises InputError where it is another now."""
    if getattr(network, "spynet", None) is None or any(key.startswith(SPYNET) for key in state):
        return {}
    if not shares_spynet(notes):
        raise InputError(f"{path}: lacks its SpyNet, and this version of vidm has another; install that of its time")
    network.spynet.load_pretrained(weights.load(SPYNETS[network.facts.spynet])[0])
    return {f"{SPYNET}{key}": value for key, value in network.spynet.state_dict().items()}


def file_sha256(path: Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
