"""The blocks of the U-Net of Dhariwal & Nichol (2021), shared by content and motion.

ResBlock:   y = skip(x) + conv0(silu(norm(conv(silu(GN(x))), condition)))      conv0 starts at zero
Attention:  y = x + proj0(softmax(q k^T / sqrt(d)) v)                          over the H W positions

`norm` is the one place where a condition enters: PosGN with (t, n), or AdaGN with an embedding.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vidm.models.norm import GroupNorm

Norm = Callable[[int], nn.Module]  # channels -> module of (x, condition)


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with weight and bias 0: a block starts as its skip connection."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResBlock(nn.Module):
    """(B, in, H, W) -> (B, out, H', W'), H' = H, 2 H (`resample='up'`) or H / 2 ('down')."""

    def __init__(
        self,
        channels: int,
        out: int,
        norm: Norm,
        groups: int,
        dropout: float = 0.0,
        resample: str | None = None,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm_in = GroupNorm(groups, channels)
        self.conv_in = nn.Conv2d(channels, out, 3, padding=1)
        self.norm = norm(out)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zeroed(nn.Conv2d(out, out, 3, padding=1))
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, condition) -> Tensor:
        y = F.silu(self.norm_in(x))
        if self.resample == "up":
            x, y = (F.interpolate(v, scale_factor=2, mode="nearest") for v in (x, y))
        elif self.resample == "down":
            x, y = (F.avg_pool2d(v, 2) for v in (x, y))
        y = self.conv_in(y)
        y = self.conv_out(self.dropout(F.silu(self.norm(y, condition))))
        return self.skip(x) + y


class Attention(nn.Module):
    """Multi-head self-attention over positions, (B, C, H, W) -> the same.

    The channel order of qkv is (head, q k v, channel), as in the official weights.
    """

    def __init__(self, channels: int, head_channels: int, groups: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.norm = GroupNorm(groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, self.heads, 3, c // self.heads, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(2)  # each (B, heads, H W, C / heads)
        y = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(b, c, h, w)
        return x + self.proj(y)


class Stage(nn.Module):
    """A residual block and, where asked for, attention behind it.

    checkpointing: in training, features inside are computed again for the gradients instead of being kept.
    """

    checkpointing = False

    def __init__(self, block: ResBlock, attention: Attention | None = None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, x: Tensor, condition) -> Tensor:
        if self.checkpointing and self.training:
            return checkpoint(self._run, x, condition, use_reentrant=False)
        return self._run(x, condition)

    def _run(self, x: Tensor, condition) -> Tensor:
        x = self.block(x, condition)
        return x if self.attention is None else self.attention(x)
