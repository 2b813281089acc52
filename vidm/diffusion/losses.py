"""What the network is trained on, fp32: a penalty on its error, weighted over t, and with a learned variance the bound.

    loss = mean(w_t penalty(y - target))  [ + T / 1000 mean(L_t), learned-range only, see vidm.diffusion.bound ]

charbonnier   sqrt((y - target)^2 + eta^2)      Eq. 4 and 7; L1 in effect with the paper's eta = 1e-8
mse           (y - target)^2                    the ablation without the robustness penalty

weighting     w_t, (T,)
none          1
p2            1 / (k + snr_t)^gamma             all alike; Choi et al. (2022); k = gamma = 1 in the official code
min-snr       min(snr_t, gamma) / snr_t         eps; Hang et al. (2023): min(snr_t, gamma) on the error of x_0
              min(snr_t, gamma) / (snr_t + 1)   v; the same, as an error of v is sqrt(snr + 1) times that of x_0
              min(snr_t, gamma)                 x_0
v             |dv / dy|, with mse its square    sqrt(1 + 1 / snr_t) for eps, 1 for v, sqrt(1 + snr_t) for x_0
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidm.config import Diffusion
from vidm.diffusion.bound import variational_bound
from vidm.diffusion.gaussian import split_output, target
from vidm.diffusion.schedule import Schedule, at


def charbonnier(y: Tensor, target: Tensor, eta: float) -> Tensor:
    # hypot: eta^2 = 1e-16 is below the rounding of fp32, and sqrt has no gradient at 0.
    return torch.hypot(y - target, y.new_full((), eta))


def mse(y: Tensor, target: Tensor) -> Tensor:
    return (y - target).square()


def loss_weights(facts: Diffusion, schedule: Schedule) -> Tensor:
    """w_t of the experiment's weighting: (T,) float64."""
    snr = schedule.snr
    if facts.weighting == "p2":
        return (facts.p2_k + snr) ** -facts.p2_gamma
    if facts.weighting == "min-snr":
        return snr.clamp(max=facts.min_snr_gamma) / {"eps": snr, "v": snr + 1, "x0": 1}[schedule.prediction]
    if facts.weighting == "v":
        gain = {"eps": 1 + 1 / snr, "v": torch.ones_like(snr), "x0": 1 + snr}[schedule.prediction]
        return gain.sqrt() if facts.loss == "charbonnier" else gain
    return torch.ones_like(snr)


def training_loss(
    facts: Diffusion, schedule: Schedule, output: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, eps: Tensor
) -> Tensor:
    """The loss that the experiment names: a scalar, fp32.

    `output` (B, C, H, W), twice the channels with learned-range, is the network's at x_t = q_sample(x_0, t, eps);
    x_0, x_t, eps (B, C, H, W), t (B,). Raises ValueError where the output's channels don't fit the variance.
    """
    y, other = split_output(facts.variance, output.float(), x_0.shape[1])
    wanted = target(schedule, x_0, t, eps).float()
    error = charbonnier(y, wanted, facts.eta) if facts.loss == "charbonnier" else mse(y, wanted)
    if facts.weighting != "none":
        error = at(loss_weights(facts, schedule), t) * error
    loss = error.mean()
    if other is not None:
        # The bound trains the variance alone: the mean has the penalty (Nichol & Dhariwal, 2021, section 3.1).
        frozen = torch.cat([y.detach(), other], dim=1)
        bound = variational_bound(schedule, facts.variance, frozen, x_0.float(), x_t.float(), t)
        loss = loss + schedule.steps / 1000 * bound.mean()
    return loss
