"""The training loop that content and motion share.

    for each global step s:   batch(s) -> loss -> gradients, clipped -> AdamW -> EMA

What a batch holds is a function of (seed, s) alone; see vidm/data/clips.py.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vidm.config import Training
from vidm.files import replacing
from vidm.machine import autocast
from vidm.progress import bar

Batch = dict[str, Tensor]
LOG_EVERY = 10


class Diverged(Exception):
    """The loss is not a number."""


def learning_rate(facts: Training, step: int) -> float:
    """Linear warm-up, then constant, or a cosine down to a hundredth."""
    warm = min(1.0, (step + 1) / facts.warmup) if facts.warmup else 1.0
    if facts.decay == "constant":
        return facts.lr * warm
    progress = max(0, step - facts.warmup) / max(1, facts.steps - facts.warmup)
    return facts.lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def ema_model(model: nn.Module, decay: float) -> AveragedModel:
    """torch's AveragedModel; the decay warms up as (1 + k) / (10 + k), so that a short run forgets its start."""

    def average(averaged: list[Tensor], current: list[Tensor], updates: Tensor) -> None:
        k = float(updates)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + k) / (10 + k)))

    return AveragedModel(model, multi_avg_fn=average)


def optimizer_of(model: nn.Module, facts: Training) -> torch.optim.AdamW:
    """AdamW; no weight decay on the learnable constant."""
    free = [p for name, p in model.named_parameters() if name == "constant"]
    rest = [p for name, p in model.named_parameters() if name != "constant"]
    groups = [{"params": rest}, {"params": free, "weight_decay": 0.0}] if free else [{"params": rest}]
    return torch.optim.AdamW(groups, lr=facts.lr, weight_decay=facts.weight_decay, fused=True)


def fit(
    model: nn.Module,
    loss_of: Callable[[nn.Module, Batch], Tensor],
    batches: Iterable[Batch],
    facts: Training,
    device: torch.device,
    curve: Path,
    description: str,
) -> nn.Module:
    """Train `model` in place and return its exponential moving average.

    `curve` gets a CSV of step, samples, loss (mean since the last row), lr. Raises Diverged.
    """
    model.to(device, memory_format=torch.channels_last).train()
    ema = ema_model(model, facts.ema)
    optimizer = optimizer_of(model, facts)
    rows, total = [], torch.zeros((), device=device)

    with bar(facts.steps, description, "steps") as progress:
        for step, batch in enumerate(batches):
            batch = {key: value.to(device, non_blocking=True) for key, value in batch.items()}

            # Gradients.
            with autocast(device, facts.precision):
                loss = loss_of(model, batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), facts.clip_norm)

            # Weights.
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(facts, step)
            optimizer.step()
            ema.update_parameters(model)

            # What people see.
            total += loss.detach()
            note = ""
            if (step + 1) % LOG_EVERY == 0 or step + 1 == facts.steps:
                since = step + 1 - (rows[-1][0] if rows else 0)
                mean = total.item() / since
                if not math.isfinite(mean):
                    raise Diverged(f"{description}: loss is {mean} at step {step + 1}; lower training.lr or use fp32")
                rows.append((step + 1, (step + 1) * facts.batch, mean, learning_rate(facts, step)))
                total.zero_()
                note = f"loss {mean:.4f}"
            progress.advance(1, note)

    with replacing(curve) as temporary, Path(temporary).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "samples", "loss", "lr"])
        writer.writerows(rows)
    return ema.module
