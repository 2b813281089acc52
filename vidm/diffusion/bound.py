"""One step's term of the variational bound, in bits per dimension: what trains a learned variance.

    L_t = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) / ln 2     t > 0
    L_0 = -log2 p(x_0 | x_1), x_0 on 256 grey levels                t = 0

Between normals with means m1, m2 and log variances l1, l2, KL = (l2 - l1 - 1 + e^(l1 - l2) + (m1 - m2)^2 e^(-l2)) / 2.
The probability of a level is the mass of its bin, x_0 +- 1/255; the two outer bins reach to infinity
(Ho et al., 2020, Eq. 13; Nichol & Dhariwal, 2021).

x_0, x_t, means and log variances: (B, C, H, W); t: (B,), 0-based. fp32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidm.diffusion.gaussian import p_mean_variance, q_posterior_mean_variance
from vidm.diffusion.schedule import Schedule


def normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N1 || N2) of each element, nats."""
    ratio = log_variance1 - log_variance2
    return 0.5 * (ratio.exp() - ratio - 1 + (mean1 - mean2).square() * (-log_variance2).exp())


def normal_cdf(x: Tensor) -> Tensor:
    """P(N(0, 1) < x) by Page's (1977) tanh, within 2e-4."""
    # Not erf: the official code trains with this one, and far from the mean L_0 differs by 0.02 bits.
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def discretized_gaussian_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log P of the grey level x, nats, each element; x in [-1, 1] is one of k / 127.5 - 1, k = 0..255."""
    scale = (-0.5 * log_variance).exp()
    below = normal_cdf(scale * (x - mean - 1 / 255))
    above = normal_cdf(scale * (x - mean + 1 / 255))
    below = torch.where(x < -0.999, 0, below)
    above = torch.where(x > 0.999, 1, above)
    return (above - below).clamp(min=1e-12).log()


def variational_bound(
    schedule: Schedule, variance: str, model_output: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor
) -> Tensor:
    """L_t of each item, bits per dimension: (B,). See p_mean_variance; the predicted x_0 is not clipped."""
    mean, _, log_variance = q_posterior_mean_variance(schedule, x_0, x_t, t)
    p = p_mean_variance(schedule, variance, model_output, x_t, t, clip=False)
    kl = normal_kl(mean, log_variance, p.mean, p.log_variance).flatten(1).mean(1)
    nll = -discretized_gaussian_log_likelihood(x_0, p.mean, p.log_variance).flatten(1).mean(1)
    return torch.where(t == 0, nll, kl) / math.log(2)
