"""Adaptive group normalisation and the embedding of time and class behind it (Dhariwal & Nichol, 2021).

    e = MLP(sinusoid(t)) + E[label]
    AdaGN(x) = (1 + a) * GroupNorm(x) + b,   (a, b) = linear(silu(e))

symbol  meaning                                   shape
x       feature map                               (B, C, H, W)
t       diffusion step, 0..steps-1                (B,) or (1,)
label   class, 0..classes-1; None without any     (B,) or (1,)
e       embedding                                 (B or 1, 4 channels)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidm.models.norm import GroupNorm


def sinusoid(t: Tensor, width: int) -> Tensor:
    """Transformer position code of t: (B,) -> (B, width), fp32, cosines first."""
    half = width // 2
    frequency = torch.exp(-math.log(10000) / half * torch.arange(half, device=t.device, dtype=torch.float32))
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def require_label(classes: int, label: Tensor | None) -> None:
    """ValueError where a network of classes gets no label, or one without classes gets one."""
    if bool(classes) != (label is not None):
        raise ValueError(
            f"the network knows {classes} classes; give label, (B,)"
            if classes
            else "the network was built without classes; leave label away"
        )


class Embedding(nn.Module):
    """(t, label) -> e (B, 4 channels)."""

    def __init__(self, channels: int, classes: int = 0) -> None:
        super().__init__()
        self.channels = channels
        self.time = nn.Sequential(nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, 4 * channels))
        self.label = nn.Embedding(classes, 4 * channels) if classes else None

    def forward(self, t: Tensor, label: Tensor | None = None) -> Tensor:
        e = self.time(sinusoid(t, self.channels))
        return e if self.label is None else e + self.label(label)


class AdaGN(nn.Module):
    """Scale and shift from an embedding (B, E)."""

    def __init__(self, channels: int, groups: int, embedding: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels)
        self.linear = nn.Linear(embedding, 2 * channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.linear(F.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        return self.norm(x) * (1 + scale) + shift
