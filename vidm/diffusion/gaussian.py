"""The forward process and what a network may predict of it, Eq. 1 and Salimans & Ho (2022).

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps
    v_t = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0

x_0, x_t, eps, v: (B, C, H, W); t: (B,), 0-based.
"""

from __future__ import annotations

from torch import Tensor

from vidm.diffusion.schedule import Schedule


def q_sample(schedule: Schedule, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """x_t of x_0."""
    signal, noise = schedule.signal_and_noise(t)
    return signal * x_0 + noise * eps


def target(schedule: Schedule, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """What the network is trained to output: eps or v."""
    if schedule.prediction == "eps":
        return eps
    signal, noise = schedule.signal_and_noise(t)
    return signal * eps - noise * x_0
