"""The U-Net of Dhariwal & Nichol (2021), and its down half as the residual encoder.

    Encoder: x (B, in, S, S) -> features of every input block, first the plain convolution, then level by level
    UNet:    encoder, middle block with attention, decoder over the skip connections -> (B, out, S, S)

Adaptive feature residual: at each input block i, h = enc_i + 0.2 h with enc_i the residual encoder's feature there.
The sum is also the skip connection. This is how the official code reads "r" of Algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidm.config import Network
from vidm.models.blocks import Attention, Norm, ResBlock, Stage, zeroed
from vidm.models.norm import GroupNorm

RESIDUAL_GAIN = 0.2


class Encoder(nn.Module):
    """The input blocks. `widths` and `sizes` list channels and side of each feature map."""

    def __init__(self, facts: Network, in_channels: int, size: int, norm: Norm) -> None:
        super().__init__()
        width = facts.channels * facts.multipliers[0]
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1)
        self.widths, self.sizes = [width], [size]
        self.stages = nn.ModuleList()
        for level, multiplier in enumerate(facts.multipliers):
            for _ in range(facts.blocks):
                block = ResBlock(width, facts.channels * multiplier, norm, facts.groups, facts.dropout)
                width = facts.channels * multiplier
                self._add(Stage(block, attention(facts, width, size)), width, size)
            if level < len(facts.multipliers) - 1:
                size //= 2
                self._add(
                    Stage(ResBlock(width, width, norm, facts.groups, facts.dropout, resample="down")),
                    width,
                    size,
                )

    def _add(self, stage: Stage, width: int, size: int) -> None:
        self.stages.append(stage)
        self.widths.append(width)
        self.sizes.append(size)

    def forward(self, x: Tensor, condition, residual: Sequence[Tensor] | None = None) -> list[Tensor]:
        """x (B, in, S, S) -> one feature map per input block, the residual added to each."""

        def joined(i: int, h: Tensor) -> Tensor:
            return h if residual is None else residual[i] + RESIDUAL_GAIN * h

        features = [joined(0, self.conv(x))]
        for i, stage in enumerate(self.stages, start=1):
            features.append(joined(i, stage(features[-1], condition)))
        return features


class UNet(nn.Module):
    """(B, in, S, S), condition -> (B, out, S, S). Exactly 0 at the start of training."""

    def __init__(self, facts: Network, in_channels: int, out_channels: int, size: int, norm: Norm) -> None:
        super().__init__()
        self.encoder = Encoder(facts, in_channels, size, norm)
        skips, sizes = list(self.encoder.widths), list(self.encoder.sizes)
        width, size = skips[-1], sizes[-1]

        def block(channels: int, out: int, resample: str | None = None) -> ResBlock:
            return ResBlock(channels, out, norm, facts.groups, facts.dropout, resample)

        self.middle = nn.ModuleList(
            [
                Stage(block(width, width), Attention(width, facts.head_channels, facts.groups)),
                Stage(block(width, width)),
            ]
        )
        self.decoder = nn.ModuleList()
        for level in reversed(range(len(facts.multipliers))):
            for _ in range(facts.blocks + 1):
                out = facts.channels * facts.multipliers[level]
                self.decoder.append(Stage(block(width + skips.pop(), out), attention(facts, out, size)))
                width = out
            if level:
                size *= 2
                self.decoder.append(Stage(block(width, width, resample="up")))
        self.norm_out = GroupNorm(facts.groups, width)
        self.conv_out = zeroed(nn.Conv2d(width, out_channels, 3, padding=1))

    def forward(self, x: Tensor, condition, residual: Sequence[Tensor] | None = None) -> Tensor:
        features = self.encoder(x, condition, residual)
        h = features[-1]
        for stage in self.middle:
            h = stage(h, condition)
        for stage in self.decoder:
            if stage.block.resample is None:
                h = torch.cat([h, features.pop()], dim=1)
            h = stage(h, condition)
        return self.conv_out(F.silu(self.norm_out(h)))


def attention(facts: Network, width: int, size: int) -> Attention | None:
    return Attention(width, facts.head_channels, facts.groups) if size in facts.attention else None
