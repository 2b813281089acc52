"""The forward process q, its posterior, the network's p, and what a network may predict.

    q(x_t | x_0)             x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps                       Eq. 1
    v                        v_t = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0                       Salimans & Ho (2022)
    q(x_{t-1} | x_t, x_0)    N(coef1_t x_0 + coef2_t x_t, posterior_variance_t)                  Ho et al. (2020), Eq. 7
    p(x_{t-1} | x_t)         the same mean with the predicted x_0, and a variance:
      fixed-small            posterior_variance_t, best where the data are one point
      fixed-large            beta_t, best where the data are N(0, I)
      learned-range          exp(u log beta_t + (1 - u) log posterior_variance_t)      Nichol & Dhariwal (2021), Eq. 15
                             u = (1 + o) / 2, o the network's other C channels: 0..1 for -1..1, but not bounded

x_0, x_t, eps, v, means and variances: (B, C, H, W); t: (B,), 0-based; tables: see vidm.diffusion.schedule.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vidm.diffusion.schedule import Schedule, at


class Gaussian(NamedTuple):
    """p(x_{t-1} | x_t) and the x_0 that it rests on, each (B, C, H, W)."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor
    pred_xstart: Tensor


def q_sample(schedule: Schedule, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """x_t of x_0."""
    signal, noise = schedule.signal_and_noise(t)
    return signal * x_0 + noise * eps


def network_input(schedule: Schedule, x_t: Tensor, t: Tensor) -> Tensor:
    """What the network sees of x_t: x_t as in the paper, or with `scaled_input` sqrt(abar_t) x_t.

    That is E(x_0 | x_t) where x_0 ~ N(0, I): noise of which nothing can be told about x_0 does not reach the network,
    which would otherwise have to learn to hold it back at each noise level.
    """
    return schedule.signal_and_noise(t)[0] * x_t if schedule.scaled_input else x_t


def target(schedule: Schedule, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """What the network is trained to output: eps, v or x_0."""
    if schedule.prediction != "v":
        return {"eps": eps, "x0": x_0}[schedule.prediction]
    signal, noise = schedule.signal_and_noise(t)
    return signal * eps - noise * x_0


def q_posterior_mean_variance(schedule: Schedule, x_0: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, variance, log_variance_clipped) of q(x_{t-1} | x_t, x_0): at t = 0, variance 0, but the log of t = 1."""
    mean = at(schedule.posterior_mean_coef1, t) * x_0 + at(schedule.posterior_mean_coef2, t) * x_t
    variance, log_variance = at(schedule.posterior_variance, t), at(schedule.posterior_log_variance_clipped, t)
    return mean, variance.expand_as(x_t), log_variance.expand_as(x_t)


def predict_xstart_from_eps(schedule: Schedule, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """x_0 = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)."""
    # Two tables, divided in float64: at the last steps x_0 is a small difference of terms 150 times as large.
    return at(1 / schedule.sqrt_alpha_bar, t) * x_t - at(schedule.snr.rsqrt(), t) * eps


def predict_xstart_from_v(schedule: Schedule, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
    """x_0 = sqrt(abar_t) x_t - sqrt(1 - abar_t) v."""
    signal, noise = schedule.signal_and_noise(t)
    return signal * x_t - noise * v


def predict_xstart(schedule: Schedule, x_t: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
    """x_0 of what the network predicts: eps, v or x_0 itself."""
    if schedule.prediction == "x0":
        return prediction
    of = {"eps": predict_xstart_from_eps, "v": predict_xstart_from_v}[schedule.prediction]
    return of(schedule, x_t, t, prediction)


def split_output(variance: str, model_output: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """(prediction, o) of a network's output; o, the learned variance's place in its range, only with learned-range.

    Raises ValueError where the output's channels don't fit the variance.
    """
    learned = variance == "learned-range"
    expected = channels * (1 + learned)
    if model_output.shape[1] != expected:
        raise ValueError(f"variance {variance}: the network puts out {model_output.shape[1]} channels, not {expected}")
    return model_output[:, :channels], model_output[:, channels:] if learned else None


def p_mean_variance(
    schedule: Schedule, variance: str, model_output: Tensor, x_t: Tensor, t: Tensor, clip: bool
) -> Gaussian:
    """p(x_{t-1} | x_t) of a network's output (B, C or 2 C, H, W).

    `variance`: fixed-small, fixed-large or learned-range. `clip`: the predicted x_0 to [-1, 1].
    Raises ValueError where the output's channels don't fit the variance.
    """
    prediction, other = split_output(variance, model_output, x_t.shape[1])
    x_0 = predict_xstart(schedule, x_t, t, prediction)
    if clip:
        x_0 = x_0.clamp(-1, 1)
    mean, spread, log_spread = q_posterior_mean_variance(schedule, x_0, x_t, t)
    if variance == "fixed-large":
        # guided-diffusion: the first one small, or else the likelihood of the data suffers.
        large = torch.cat([schedule.first_variance, schedule.betas[1:]])
        spread, log_spread = at(large, t).expand_as(x_t), at(large.log(), t).expand_as(x_t)
    elif other is not None:
        u = (1 + other) / 2
        log_spread = u * at(schedule.betas.log(), t) + (1 - u) * log_spread
        spread = log_spread.exp()
    return Gaussian(mean, spread, log_spread, x_0)


def p_sample(
    schedule: Schedule, variance: str, model_output: Tensor, x_t: Tensor, t: Tensor, noise: Tensor, clip: bool
) -> Tensor:
    """One ancestral step, x_{t-1} of x_t; `noise` (B, C, H, W) from N(0, I), unused at t = 0. See p_mean_variance."""
    p = p_mean_variance(schedule, variance, model_output, x_t, t, clip)
    noisy = (t > 0).to(x_t.dtype).view(-1, 1, 1, 1)
    return p.mean + noisy * (0.5 * p.log_variance).exp() * noise
