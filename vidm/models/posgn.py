"""Positional group normalisation, Eqs. 5-6.

    (a, b) = MLP(h, w, n, t)                     Eq. 5, with a sine after the first layer
    PosGN(x) = a * GroupNorm(x) + b              Eq. 6, with a = 1 + scale

symbol  meaning                                  shape
x       feature map                              (B, C, H, W)
h, w    row and column of a feature              from the map's own size
n       frame, 0..frames-1                       (B,) or (1,)
t       diffusion step, 0..steps-1               (B,) or (1,)
label   class, 0..classes-1; None without any    (B,) or (1,)

Every coordinate runs from -1 to 1 over the range that the model was built for. Nothing of them is kept in the state.
A class adds a learned, zero-initialised vector to scale and shift: the paper has a conditional model and does not say
how. The MLP of the coordinates stays as it is, so that its tables still serve every video in flight.

In sampling all videos share n and t: `Tables` keeps (a, b) of every PosGN for as long as one (n, t) lasts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidm.machine import full_precision
from vidm.models.norm import GroupNorm


def unit(index: Tensor, count: int) -> Tensor:
    """Index 0..count-1 -> [-1, 1], as linspace(-1, 1, count)[index]."""
    return index.float() * (2 / max(count - 1, 1)) - 1


class Tables:
    """Scale and shift of every PosGN at one (n, t), made at the first batch and kept for the others.

    A table holds for its (n, t) alone: make a new one for the next, and drop this. `around`: entered while one is made.
    """

    def __init__(self, around: Callable[[], AbstractContextManager] = nullcontext) -> None:
        self.around = around
        self.made: dict[tuple[nn.Module, int, int], tuple[Tensor, Tensor]] = {}

    def of(self, norm: PosGN, t: Tensor, n: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, shift), each (1, C, H, W), in dtype and memory order of the feature map x (B, C, H, W)."""
        key = (norm, *x.shape[-2:])
        if key not in self.made:
            last = x.is_contiguous(memory_format=torch.channels_last)
            order = torch.channels_last if last else torch.contiguous_format
            with self.around():
                pair = norm.modulation(t, n, *x.shape[-2:])
                self.made[key] = tuple(v.to(x.dtype).contiguous(memory_format=order) for v in pair)
        return self.made[key]


class Where(NamedTuple):
    """What PosGN takes beside a feature map; each tensor (B,) or (1,), with tables (1,)."""

    t: Tensor
    n: Tensor
    label: Tensor | None = None
    tables: Tables | None = None


class PosGN(nn.Module):
    """Scale and shift from 4-D coordinates instead of an embedding of t.

    The MLP runs in fp32 under autocast too: in bf16 the 1000 values of t would merge into 756. On a GPU its products
    are in TF32 then (`vidm.machine.set_tf32`); the coordinates themselves enter without one.
    """

    def __init__(self, channels: int, groups: int, steps: int, frames: int, classes: int = 0) -> None:
        super().__init__()
        self.steps, self.frames = steps, frames
        self.norm = GroupNorm(groups, channels)
        self.first = nn.Linear(4, channels)  # input order (t, n, h, w), as in the official weights
        self.second = nn.Linear(channels, 2 * channels)
        self.third = nn.Linear(2 * channels, 2 * channels)
        self.label = nn.Embedding.from_pretrained(torch.zeros(classes, 2 * channels), freeze=False) if classes else None

    def modulation(self, t: Tensor, n: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """(scale, shift), each (B or 1, C, H, W), fp32."""
        with full_precision(t.device):
            weight = self.first.weight
            h = unit(torch.arange(height, device=t.device), height)
            w = unit(torch.arange(width, device=t.device), width)
            # W (t, n, h, w) + bias, split into a sum: the 4-D grid itself is never made.
            item = (
                self.first.bias
                + unit(t, self.steps)[:, None] * weight[:, 0]
                + unit(n, self.frames)[:, None] * weight[:, 1]
            )  # (B, C)
            place = h[:, None, None] * weight[:, 2] + w[None, :, None] * weight[:, 3]  # (H, W, C)
            y = torch.sin(item[:, None, None, :] + place)
            y = self.third(F.silu(self.second(y)))  # (B, H, W, 2C)
            scale, shift = y.permute(0, 3, 1, 2).chunk(2, dim=1)
        return scale, shift

    def forward(self, x: Tensor, where: Where | tuple) -> Tensor:
        """x (B, C, H, W), where a Where or the first two or three of it -> (B, C, H, W)."""
        t, n, label, tables = Where(*where)
        scale, shift = self.modulation(t, n, *x.shape[-2:]) if tables is None else tables.of(self, t, n, x)
        if self.label is not None:
            a, b = self.label(label)[:, :, None, None].chunk(2, dim=1)
            scale, shift = scale + a, shift + b
        return self.norm(x) * (1 + scale.to(x.dtype)) + shift.to(x.dtype)
