"""Noise schedules as float64 tables.

symbol  meaning                                shape
beta    variance added at step t               (T,)
abar    prod(1 - beta), the signal left        (T,)

t counts from 0, so that t = 0 is the paper's step 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidm.config import Diffusion


def linear_betas(steps: int) -> Tensor:
    """Ho et al. (2020), scaled so that any number of steps ends at the same noise: (T,) float64."""
    scale = 1000 / steps
    return torch.linspace(scale * 1e-4, scale * 0.02, steps, dtype=torch.float64).clamp(max=0.999)


def cosine_betas(steps: int) -> Tensor:
    """Nichol & Dhariwal (2021), abar(t) = cos^2((t / T + 0.008) / 1.008 * pi / 2): (T,) float64."""
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    abar = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - abar[1:] / abar[:-1]).clamp(max=0.999)


class Schedule:
    """The tables of one diffusion."""

    def __init__(self, facts: Diffusion) -> None:
        self.steps, self.prediction = facts.steps, facts.prediction
        self.betas = {"linear": linear_betas, "cosine": cosine_betas}[facts.schedule](facts.steps)
        self.alpha_bar = torch.cumprod(1 - self.betas, dim=0)

    def signal_and_noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(sqrt(abar_t), sqrt(1 - abar_t)), each (B, 1, 1, 1) fp32, for t (B,)."""
        abar = self.alpha_bar.to(t.device)[t].view(-1, 1, 1, 1)
        return abar.sqrt().float(), (1 - abar).sqrt().float()
