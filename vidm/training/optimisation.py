"""AdamW, its rate, and the moving average of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vidm.config import Training

FUSED = {"cpu", "cuda", "mps", "xpu"}  # devices for which torch has the whole step in one kernel


def learning_rate(facts: Training, step: int) -> float:
    """Linear warm-up, then constant, or a cosine down to a hundredth."""
    warm = min(1.0, (step + 1) / facts.warmup) if facts.warmup else 1.0
    if facts.decay == "constant":
        return facts.lr * warm
    progress = max(0, step - facts.warmup) / max(1, facts.steps - facts.warmup)
    return facts.lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def ema_model(model: nn.Module, decay: float, warmup: bool = True) -> AveragedModel:
    """torch's AveragedModel, which begins as a copy of the weights after the first step.

    warmup: update k has the decay (1 + k) / (10 + k) until that is over `decay`, so that a short run forgets its start.
    The official code has none.
    """

    def average(averaged: list[Tensor], current: list[Tensor], _: Tensor) -> None:
        k = float(made.n_averaged)  # on the CPU; what is passed is its copy on a GPU, to be waited for
        torch._foreach_lerp_(averaged, current, 1 - (min(decay, (1 + k) / (10 + k)) if warmup else decay))

    made = AveragedModel(model, multi_avg_fn=average)
    return made


def optimizer_of(model: nn.Module, facts: Training) -> torch.optim.AdamW:
    """AdamW, in one kernel where the device has one; no weight decay on the learnable constant."""
    free = [p for name, p in model.named_parameters() if name == "constant"]
    rest = [p for name, p in model.named_parameters() if name != "constant"]
    groups = [{"params": rest}, {"params": free, "weight_decay": 0.0}] if free else [{"params": rest}]
    fused = all(p.device.type in FUSED for p in model.parameters())
    return torch.optim.AdamW(groups, lr=facts.lr, weight_decay=facts.weight_decay, fused=fused)
