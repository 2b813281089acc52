"""Penalties on the network's error, fp32, mean over all elements.

charbonnier   sqrt((y - target)^2 + eta^2)      Eq. 4 and 7; L1 in effect with the paper's eta = 1e-8
mse           (y - target)^2                    the ablation without the robustness penalty
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidm.config import Diffusion


def charbonnier(y: Tensor, target: Tensor, eta: float) -> Tensor:
    # hypot: eta^2 = 1e-16 is below the rounding of fp32, and sqrt has no gradient at 0.
    return torch.hypot(y - target, y.new_tensor(eta)).mean()


def mse(y: Tensor, target: Tensor) -> Tensor:
    return (y - target).square().mean()


def penalty(facts: Diffusion, y: Tensor, target: Tensor) -> Tensor:
    """The loss that the experiment names, of two (B, C, H, W) tensors: a scalar."""
    y, target = y.float(), target.float()
    return charbonnier(y, target, facts.eta) if facts.loss == "charbonnier" else mse(y, target)
