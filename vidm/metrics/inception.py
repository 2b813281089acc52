"""The Inception of FID (the TensorFlow graph of 2015-12-05), whose pooled features FID and KID are defined with.

It differs from torchvision's: batch norm with eps 1e-3 and no scale, average pools that leave the padding out of
the count, a max pool in the last block. Batch norm is folded into the convolutions, in float64, when the weights are
loaded. The graph resizes by itself, on TF 1's grid; `frames_to_input` does it here. There are no class logits in the
weights, so no Inception score comes from them.

    frames (B,H,W,3) uint8 -> frames_to_input -> (B,3,299,299) in [-1, 0.992] -> Inception -> (B,2048)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidm import weights
from vidm.errors import InputError
from vidm.machine import exact
from vidm.metrics.resize import bilinear_tf1

SIDE = 299
DIMENSIONS = 2048
EPS = 1e-3
PARTS = ("conv.weight", "norm.bias", "norm.mean", "norm.var")


class _Unit(nn.Conv2d):
    """Convolution, batch norm (folded into weight and bias), ReLU."""

    def __init__(
        self, inner: int, outer: int, kernel: int | tuple[int, int] = 1, stride: int = 1, same: bool = True
    ) -> None:
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        super().__init__(inner, outer, size, stride, padding=tuple(k // 2 for k in size) if same else 0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu_()


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class _Towers(nn.Module):
    """Branches side by side, concatenated; `pool` ones begin or consist of a pool."""

    def __init__(self, branches: dict[str, nn.Module], pooled: str = "", last: str = "") -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)
        self.names, self.pooled, self.last = tuple(branches), pooled, last

    def forward(self, x: Tensor) -> Tensor:
        out = [self.get_submodule(n)(_average(x) if n == self.pooled else x) for n in self.names]
        return torch.cat([*out, F.max_pool2d(x, 3, 2)] if self.last == "max" else out, 1)


def _tower(*units: _Unit) -> nn.Sequential:
    """Units under the names of the original: conv, conv_1, conv_2, ..."""
    tower = nn.Sequential()
    for k, unit in enumerate(units):
        tower.add_module(f"conv_{k}" if k else "conv", unit)
    return tower


def _a(inner: int, outer: int) -> _Towers:
    """35 x 35."""
    branches = {
        "conv": _Unit(inner, 64),
        "tower": _tower(_Unit(inner, 48), _Unit(48, 64, 5)),
        "tower_1": _tower(_Unit(inner, 64), _Unit(64, 96, 3), _Unit(96, 96, 3)),
        "tower_2": _tower(_Unit(inner, outer)),
    }
    return _Towers(branches, pooled="tower_2")


def _b(inner: int) -> _Towers:
    """35 x 35 -> 17 x 17."""
    branches = {
        "conv": _Unit(inner, 384, 3, 2, same=False),
        "tower": _tower(_Unit(inner, 64), _Unit(64, 96, 3), _Unit(96, 96, 3, 2, same=False)),
    }
    return _Towers(branches, last="max")


def _c(inner: int, c: int) -> _Towers:
    """17 x 17."""
    wide, high = (1, 7), (7, 1)
    branches = {
        "conv": _Unit(inner, 192),
        "tower": _tower(_Unit(inner, c), _Unit(c, c, wide), _Unit(c, 192, high)),
        "tower_1": _tower(
            _Unit(inner, c), _Unit(c, c, high), _Unit(c, c, wide), _Unit(c, c, high), _Unit(c, 192, wide)
        ),
        "tower_2": _tower(_Unit(inner, 192)),
    }
    return _Towers(branches, pooled="tower_2")


def _d(inner: int) -> _Towers:
    """17 x 17 -> 8 x 8."""
    branches = {
        "tower": _tower(_Unit(inner, 192), _Unit(192, 320, 3, 2, same=False)),
        "tower_1": _tower(
            _Unit(inner, 192), _Unit(192, 192, (1, 7)), _Unit(192, 192, (7, 1)), _Unit(192, 192, 3, 2, same=False)
        ),
    }
    return _Towers(branches, last="max")


class _E(nn.Module):
    """8 x 8; the last of the two pools by the maximum."""

    def __init__(self, inner: int, largest: bool) -> None:
        super().__init__()
        self.largest = largest
        self.conv = _Unit(inner, 320)
        self.tower_conv = _Unit(inner, 384)
        self.tower_mixed_conv = _Unit(384, 384, (1, 3))
        self.tower_mixed_conv_1 = _Unit(384, 384, (3, 1))
        self.tower_1_conv = _Unit(inner, 448)
        self.tower_1_conv_1 = _Unit(448, 384, 3)
        self.tower_1_mixed_conv = _Unit(384, 384, (1, 3))
        self.tower_1_mixed_conv_1 = _Unit(384, 384, (3, 1))
        self.tower_2_conv = _Unit(inner, 192)

    def forward(self, x: Tensor) -> Tensor:
        a = self.tower_conv(x)
        b = self.tower_1_conv_1(self.tower_1_conv(x))
        pooled = F.max_pool2d(x, 3, 1, 1) if self.largest else _average(x)
        return torch.cat(
            [
                self.conv(x),
                self.tower_mixed_conv(a),
                self.tower_mixed_conv_1(a),
                self.tower_1_mixed_conv(b),
                self.tower_1_mixed_conv_1(b),
                self.tower_2_conv(pooled),
            ],
            1,
        )


class Inception(nn.Module):
    """(B,3,299,299), grey level / 128 - 1 -> (B,2048) float32. Raises InputError on another shape.

    `layer="64"` gives the spatial mean after the first max pool instead, (B,64). `sha256` is that of the weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sha256 = ""
        self.conv = _Unit(3, 32, 3, 2, same=False)
        self.conv_1 = _Unit(32, 32, 3, same=False)
        self.conv_2 = _Unit(32, 64, 3)
        self.conv_3 = _Unit(64, 80)
        self.conv_4 = _Unit(80, 192, 3, same=False)
        blocks = [_a(192, 32), _a(256, 64), _a(288, 64), _b(288), *(_c(768, c) for c in (128, 160, 160, 192))]
        blocks += [_d(768), _E(1280, largest=False), _E(2048, largest=True)]
        self.blocks = [f"mixed_{k}" if k else "mixed" for k in range(len(blocks))]
        for name, block in zip(self.blocks, blocks, strict=True):
            self.add_module(name, block)

    def forward(self, x: Tensor, layer: str = "2048") -> Tensor:
        if x.ndim != 4 or x.shape[1:] != (3, SIDE, SIDE):
            raise InputError(f"Inception: frames must be (B,3,{SIDE},{SIDE}), not {tuple(x.shape)}")
        with exact(x.device):
            x = F.max_pool2d(self.conv_2(self.conv_1(self.conv(x.float()))), 3, 2)
            if layer == "64":
                return x.mean((2, 3))
            x = F.max_pool2d(self.conv_4(self.conv_3(x)), 3, 2)
            for name in self.blocks:
                x = self.get_submodule(name)(x)
            return x.mean((2, 3))


def frames_to_input(frames: np.ndarray | Tensor) -> Tensor:
    """(B,H,W,3) uint8 -> (B,3,299,299) float32: TF 1's bilinear grid, then grey level / 128 - 1."""
    if isinstance(frames, np.ndarray):
        frames = torch.from_numpy(np.array(frames, order="C"))
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise InputError(f"frames must be (B,H,W,3) uint8, not {tuple(frames.shape)} {frames.dtype}")
    x = bilinear_tf1(frames.permute(0, 3, 1, 2).float(), (SIDE, SIDE))
    return (x / 128 - 1).contiguous(memory_format=torch.channels_last)


def _folded(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`<layer>.conv.weight`, `<layer>.norm.{bias,mean,var}` -> `<layer>.weight`, `<layer>.bias`.

    y = (conv(x) - mean) / sqrt(var + eps) + bias
    """
    state = {}
    for layer in (key.removesuffix(".conv.weight") for key in tensors if key.endswith(".conv.weight")):
        kernel, bias, mean, var = (tensors[f"{layer}.{part}"].double() for part in PARTS)
        scale = (var + EPS).rsqrt()
        state |= {
            f"{layer}.weight": (kernel * scale[:, None, None, None]).float(),
            f"{layer}.bias": (bias - mean * scale).float(),
        }
    return state


def load_inception(path: str | Path | None = None, device: str | torch.device = "cpu") -> Inception:
    """The network with its pretrained weights, in eval mode, without gradients.

    `path`: the file of `vidm weights fetch inception`; without one it is fetched. Raises InputError.
    """
    tensors, note = weights.load("inception", None if path is None else Path(path))
    model = Inception()
    model.load_state_dict(_folded(tensors))
    model.sha256 = note["sha256"]
    return model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
