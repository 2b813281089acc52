"""The content generator: eps_theta(x_t, c, t), Eqs. 3-4.

symbol  meaning                                                        shape
x_t     noisy frame                                                    (B, 3, S, S)
t       diffusion step, 0..steps-1                                     (B,) or (1,)
c       learnable constant, concatenated to x_t ("truncation trick")   (1, 3, S, S)

c starts from N(0, 1), or from 0 by a switch: N(0, 1) is noise that a short training has to unlearn. Time enters through
AdaGN, as in Dhariwal & Nichol (2021).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vidm.config import Content
from vidm.models.posgn import AdaGN
from vidm.models.unet import UNet


def sinusoid(t: Tensor, width: int) -> Tensor:
    """Transformer position code of t: (B,) -> (B, width), fp32, cosines first."""
    half = width // 2
    frequency = torch.exp(-math.log(10000) / half * torch.arange(half, device=t.device, dtype=torch.float32))
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class TimeEmbedding(nn.Sequential):
    """t (B,) -> (B, 4 channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, 4 * channels))
        self.channels = channels

    def forward(self, t: Tensor) -> Tensor:
        return super().forward(sinusoid(t, self.channels))


class ContentNetwork(nn.Module):
    """What the network predicts of a noisy frame: (x_t, t) -> (B, 3, S, S)."""

    def __init__(self, facts: Content, size: int) -> None:
        super().__init__()
        channels, groups = facts.network.channels, facts.network.groups
        self.size = size
        self.time = TimeEmbedding(channels)
        start = torch.randn if facts.constant_start == "normal" else torch.zeros
        self.constant = nn.Parameter(start(1, 3, size, size)) if facts.constant else None
        self.unet = UNet(
            facts.network,
            in_channels=6 if facts.constant else 3,
            out_channels=3,
            size=size,
            norm=lambda width: AdaGN(width, groups, 4 * channels),
        )

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        x = x_t
        if self.constant is not None:
            c = self.constant.to(x_t.dtype).expand(len(x_t), -1, -1, -1)
            x = torch.cat([x_t, c], dim=1)
        return self.unet(x, self.time(t))
