"""Noise schedules as float64 tables, and the choice of steps that a sampler visits.

symbol                          meaning                                                       shape
beta                            variance added at step t                                      (T,)
abar = prod(1 - beta)           the signal left; abar_prev is that of the step before, 1      (T,)
snr                             abar / (1 - abar)                                             (T,)
posterior_variance              beta (1 - abar_prev) / (1 - abar), of q(x_{t-1} | x_t, x_0)   (T,)
posterior_log_variance_clipped  its log; at t = 0, where it is 0, that of t = 1               (T,)
posterior_mean_coef1            sqrt(abar_prev) beta / (1 - abar), of x_0                     (T,)
posterior_mean_coef2            sqrt(1 - beta) (1 - abar_prev) / (1 - abar), of x_t           (T,)

t counts from 0, so that t = 0 is the paper's step 1. A respaced chain over the steps s_0 < s_1 < .. has
beta_i = 1 - abar(s_i) / abar(s_{i-1}) (Nichol & Dhariwal, 2021, section 4), and t counts its own steps.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vidm.config import Diffusion

# Where solvers in log SNR begin unless they are told: log SNR / 2 = -5.1, just above the linear schedule's last step.
# The cosine schedule ends at sigma 20291, an artefact of its clamped last beta; above this nothing is left of x_0.
SIGMA_MAX = math.exp(5.1)


def linear_betas(steps: int) -> Tensor:
    """Ho et al. (2020), scaled so that any number of steps ends at the same noise: (T,) float64."""
    scale = 1000 / steps
    return torch.linspace(scale * 1e-4, scale * 0.02, steps, dtype=torch.float64).clamp(max=0.999)


def cosine_betas(steps: int) -> Tensor:
    """Nichol & Dhariwal (2021), abar(t) = cos^2((t / T + 0.008) / 1.008 * pi / 2): (T,) float64."""
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    abar = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - abar[1:] / abar[:-1]).clamp(max=0.999)


def at(table: Tensor, t: Tensor) -> Tensor:
    """A table's values at t (B,), for images: (B, 1, 1, 1) fp32 on t's device."""
    return table.float().to(t.device)[t].view(-1, 1, 1, 1)


class Schedule:
    """The tables of one diffusion, see above; `timesteps` (T,) int64 are the steps of training that it visits."""

    def __init__(self, facts: Diffusion) -> None:
        self.prediction, self.scaled_input = facts.prediction, facts.scaled_input
        betas = {"linear": linear_betas, "cosine": cosine_betas}[facts.schedule](facts.steps)
        self._tabulate(betas, torch.arange(facts.steps))

    def to(self, device: torch.device) -> Schedule:
        """The same with its tables on a device: `at` then copies nothing to it, which would make the host wait."""
        new = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(new, name, value.to(device))
        return new

    def _tabulate(self, betas: Tensor, timesteps: Tensor) -> None:
        self.steps, self.timesteps, self.betas = len(betas), timesteps, betas
        self.alpha_bar = torch.cumprod(1 - betas, dim=0)
        self.sqrt_alpha_bar, self.sqrt_one_minus_alpha_bar = self.alpha_bar.sqrt(), (1 - self.alpha_bar).sqrt()
        self.snr = self.alpha_bar / (1 - self.alpha_bar)
        previous = _shifted(self.alpha_bar)
        self.posterior_variance = betas * (1 - previous) / (1 - self.alpha_bar)
        self.posterior_log_variance_clipped = torch.cat([self.first_variance, self.posterior_variance[1:]]).log()
        self.posterior_mean_coef1 = previous.sqrt() * betas / (1 - self.alpha_bar)
        self.posterior_mean_coef2 = (1 - betas).sqrt() * (1 - previous) / (1 - self.alpha_bar)

    @property
    def first_variance(self) -> Tensor:
        """(1,): stands in for the variance 0 of t = 0 where a log is taken; a chain of one step has only its beta."""
        return self.posterior_variance[1:2] if self.steps > 1 else self.betas

    def signal_and_noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(sqrt(abar_t), sqrt(1 - abar_t)), each (B, 1, 1, 1) fp32, for t (B,)."""
        return at(self.sqrt_alpha_bar, t), at(self.sqrt_one_minus_alpha_bar, t)


def _shifted(alpha_bar: Tensor) -> Tensor:
    return torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])


def respaced(schedule: Schedule, timesteps: Sequence[int]) -> Schedule:
    """The chain that visits only these steps of `schedule`, ascending; a sampled x_0 .. x_T keeps its marginals.

    Raises ValueError where they don't ascend within 0 .. T-1.
    """
    kept = torch.as_tensor(timesteps, dtype=torch.int64)
    if not len(kept) or kept[0] < 0 or kept[-1] >= schedule.steps or (kept.diff() <= 0).any():
        raise ValueError(f"timesteps: they do not ascend within 0..{schedule.steps - 1}")
    alpha_bar = schedule.alpha_bar[kept]
    new = copy.copy(schedule)
    new._tabulate(1 - alpha_bar / _shifted(alpha_bar), schedule.timesteps[kept])
    return new


def trailing_timesteps(steps: int, count: int) -> Tensor:
    """(count,) int64, descending: evenly spaced, from the last step of training on (Lin et al., 2024)."""
    return torch.tensor([round(k * steps / count) - 1 for k in range(count, 0, -1)])


def noise_levels(schedule: Schedule) -> Tensor:
    """sigma_t = sqrt((1 - abar_t) / abar_t), noise over signal, of every step: (T,) float64, ascending."""
    return schedule.snr.rsqrt()


def level_probabilities(facts: Diffusion) -> Tensor:
    """How often training draws each step t: (T,) float64, sums to 1.

    uniform      all alike
    log-normal   ln sigma ~ N(levels_mean, levels_std^2), at the nearest step in ln sigma (Karras et al., 2022, Table 1)
    """
    if facts.levels == "uniform":
        return torch.full((facts.steps,), 1 / facts.steps, dtype=torch.float64)
    log_sigma = noise_levels(Schedule(facts)).log()
    between = (log_sigma[1:] + log_sigma[:-1]) / 2
    below = torch.special.ndtr((between - facts.levels_mean) / facts.levels_std)
    return torch.diff(below, prepend=below.new_zeros(1), append=below.new_ones(1))


def check_sigmas(facts: Diffusion, sigma_max: float | None, sigma_min: float | None = None) -> None:
    """Raises ValueError where a chain can't be between these noise levels: the schedule does not have them, or the
    first is not the higher one.
    """
    highest = float(noise_levels(Schedule(facts))[-1])
    if sigma_min is not None and sigma_min >= (sigma_max or highest):
        raise ValueError(f"sigma_min: {sigma_min:g} is not below sigma_max = {sigma_max or highest:g}; nearest: 0.01")
    if sigma_max is not None and sigma_max > highest:
        raise ValueError(f"sigma_max: {sigma_max:g} is beyond the schedule's last noise level; nearest: {highest:.4g}")


def log_snr_timesteps(
    schedule: Schedule, count: int, sigma_max: float | None = None, sigma_min: float | None = None
) -> Tensor:
    """(count,) int64, descending: evenly spaced in log SNR, as the steps of a multistep solver are best (Lu et al.,
    2022), from the last step whose sigma is at most `sigma_max`, by default SIGMA_MAX, to the first one whose sigma is
    at least `sigma_min`, by default step 0.

    Steps that would meet are pushed apart; where there are too few between the limits, they begin later.
    """
    sigma = noise_levels(schedule)
    highest, lowest = SIGMA_MAX if sigma_max is None else sigma_max, sigma_min or 0.0
    first = min(int((sigma < lowest * (1 - 1e-9)).sum()), schedule.steps - count)
    last = max(first + count, int((sigma <= highest * (1 + 1e-9)).sum()))
    log_snr = schedule.snr[first:last].log().numpy()[::-1]  # ascending, from the last step
    wanted = np.linspace(log_snr[0], log_snr[-1], count)
    passed = np.interp(wanted, log_snr, np.arange(last - first)).round().astype(np.int64)
    place = np.arange(count)
    passed = np.maximum.accumulate(passed - place) + place
    passed = np.minimum(passed, last - first - count + place)
    return torch.from_numpy(last - 1 - passed)


def space_timesteps(steps: int, sections: str | int) -> list[int]:
    """Which of 0 .. steps-1 to visit, ascending, written as in guided-diffusion.

    "ddim25": every k-th, for the smallest whole k that leaves 25. "10,15,25": three parts of equal length, with 10, 15
    and 25 steps, each from its first to its last step by an equal, fractional stride; 25 or "25": one part.

    Raises ValueError where it is neither, or asks for more steps than there are.
    """
    text = str(sections)
    counts = text.removeprefix("ddim").split(",")
    if not all(c.strip().isdecimal() for c in counts) or (text.startswith("ddim") and len(counts) > 1):
        raise ValueError(f"sections: '{text}' is neither a number, nor numbers between commas, nor ddim and a number")
    if text.startswith("ddim"):
        return _whole_stride(steps, int(counts[0]))
    visited, start = [], 0
    for part, count in enumerate(map(int, counts)):
        length = steps // len(counts) + (part < steps % len(counts))
        if not 0 < count <= length:
            raise ValueError(f"sections: {count} of '{text}' is not within 1..{length}, the steps of its part")
        # Added up and not multiplied, as in the official code: a sum that lands on a half is rounded by its error.
        strides = itertools.repeat((length - 1) / max(count - 1, 1), count - 1)
        visited += [start + round(s) for s in itertools.accumulate(strides, initial=0.0)]
        start += length
    return visited


def _whole_stride(steps: int, count: int) -> list[int]:
    for stride in range(1, steps + 1):
        if len(range(0, steps, stride)) == count:
            return list(range(0, steps, stride))
    raise ValueError(f"sections: no whole stride visits exactly {count} of {steps} steps")
