"""Checkpoints of a run: all that training goes on from, in one file that is whole or is not used.

    runs/{experiment}/{part}-{hash}/
      step-000001000.safetensors    model/*, ema/*, optimizer/{parameter}/*, loop/*; metadata: step, loss, sha256
      curve.csv                     the loss curve so far
      live/                         the same for DVC
      preview/                      what the network makes
      lock                          held while a trainer works here

A file is written beside its name, brought to the disk and renamed; its hash is checked before it is used. Nothing in
it is a pickle. The run's hash covers what trains, the frames and the pretrained weights: other data never resume an old
run.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from vidm.errors import InputError
from vidm.files import replacing

KEY = "checkpoint"
NAME = re.compile(r"step-(\d{9})\.safetensors")


@dataclass
class State:
    """What changes in training. `loop`: named scalars of the loop's own."""

    model: nn.Module
    ema: nn.Module
    optimizer: Optimizer
    loop: dict[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name, contiguous and on the CPU."""
        found = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        found |= {f"ema/{k}": v for k, v in self.ema.state_dict().items()}
        for i, values in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer/{i}/{k}": v for k, v in values.items()}
        found |= {f"loop/{k}": v for k, v in self.loop.items()}
        return {k: v.detach().to("cpu", memory_format=torch.contiguous_format) for k, v in found.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` gave, to the bit. Raises RuntimeError where it is of another network."""

        def under(name: str) -> dict[str, Tensor]:
            return {k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(f"{name}/")}

        self.model.load_state_dict(under("model"), strict=True)
        self.ema.load_state_dict(under("ema"), strict=True)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in under("optimizer").items():
            i, key = name.split("/")
            like = parameters[int(i)]
            # The fused step walks memory: averages need the layout of their parameter.
            value = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            state.setdefault(int(i), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        for name, value in under("loop").items():
            self.loop[name].copy_(value)


class Checkpoints:
    """The checkpoints of one run folder: the last `keep` stay, and the one with the lowest loss.

    With a constant rate runs of any length share a folder. What a longer one left there stays.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second trainer, perhaps an orphan of a killed workflow, out. Raises InputError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "lock", timeout=0):
                for left in self.folder.rglob(".*.tmp"):  # by a kill in the middle of a save
                    left.unlink(missing_ok=True)
                yield
        except Timeout:
            raise InputError(f"{self.folder}: another process trains here; wait for it, or stop it") from None
        except OSError as error:
            raise InputError(f"{error.filename or self.folder}: can't be written ({error.strerror})") from None

    def steps(self) -> list[int]:
        """Steps of the files that are there, ascending; whether they are whole is not known yet."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(int(found[1]) for name in names if (found := NAME.fullmatch(name)))

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.safetensors"

    def save(self, step: int, tensors: dict[str, Tensor], loss: float) -> None:
        """Write the state after `step` steps. Raises OSError where the disk is full; the older files stay."""
        notes = {"step": step, "loss": loss, "sha256": digest(tensors)}
        with replacing(self.path(step)) as temporary:
            try:
                save_file(tensors, temporary, metadata={KEY: json.dumps(notes, sort_keys=True)})
            except SafetensorError as error:
                raise OSError(errno.EIO, str(error)) from None
            to_disk(temporary)
        to_disk(self.folder)
        self._prune(step)

    def newest(self, last: int) -> tuple[int, dict[str, Tensor]] | None:
        """(step, tensors) of the newest whole file of at most `last` steps. A damaged one is passed over, loudly."""
        for step in reversed([s for s in self.steps() if s <= last]):
            try:
                with safe_open(self.path(step), "pt") as file:
                    notes = json.loads((file.metadata() or {}).get(KEY, "{}"))
                    tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            except (OSError, SafetensorError, ValueError):
                notes, tensors = {}, {}
            if notes.get("step") == step and notes.get("sha256") == digest(tensors):
                return step, tensors
            print(f"vidm: {self.path(step)}: half-written or damaged; the one before it is used", file=sys.stderr)
        return None

    def finish(self, last: int) -> None:
        """A run of `last` steps is over: its last state stays, to go on from with more, and those of longer runs."""
        for step in self.steps():
            if step < last:
                self.path(step).unlink(missing_ok=True)

    def _prune(self, newest: int) -> None:
        steps = [step for step in self.steps() if step <= newest]  # those of a longer run are not this one's
        old = steps[: -self.keep]
        if not old:
            return
        losses = {step: self._notes(step).get("loss", math.nan) for step in steps}
        best = min(steps, key=lambda step: losses[step] if math.isfinite(losses[step]) else math.inf)
        for step in old:
            if step != best:
                self.path(step).unlink(missing_ok=True)

    def _notes(self, step: int) -> dict[str, Any]:
        try:
            with safe_open(self.path(step), "pt") as file:
                return json.loads((file.metadata() or {}).get(KEY, "{}"))
        except (OSError, SafetensorError, ValueError):
            return {}


def digest(tensors: dict[str, Tensor]) -> str:
    """sha256 of names, types, shapes and bytes."""
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        hashed.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        hashed.update(value.reshape(-1).view(torch.uint8).numpy())
    return hashed.hexdigest()


def to_disk(path: Path) -> None:
    """fsync of a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
