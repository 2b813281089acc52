"""Resizing as each metric's original does it: kernel, grid and order are choices that move the number."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(x: Tensor, side: int, kernel: str, order: str) -> Tensor:
    """(B,C,H,W) float -> (B,C,side,side), by the names of `vidm.protocols`. At that size already: unchanged."""
    height, width = x.shape[2:]
    if order == "crop-then-whole":
        short = min(height, width)
        x = _centre(x, short)
        height = width = short
    if (height, width) == (side, side):
        return x
    if order == "short-side-then-crop":
        # The longer side is rounded up, so that the crop always fits.
        short = min(height, width)
        size = tuple(side if n == short else -(-n * side // short) for n in (height, width))
        return _centre(scale(x, size, kernel), side)
    return scale(x, (side, side), kernel)


def scale(x: Tensor, size: tuple[int, int], kernel: str) -> Tensor:
    """To (height, width). TF 1's grid is src = dst * in / out; the plain one samples at pixel centres."""
    if kernel == "bilinear-tf1":
        return bilinear_tf1(x, size)
    if kernel == "bilinear-corners":
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=kernel == "bilinear-antialias")


def bilinear_tf1(x: Tensor, size: tuple[int, int]) -> Tensor:
    """tf.image.resize_bilinear of TF 1: source = target * in / out, ends clamped."""
    return _along(_along(x, 2, size[0]), 3, size[1])


def _along(x: Tensor, axis: int, target: int) -> Tensor:
    size = x.shape[axis]
    if size == target:
        return x
    source = torch.arange(target, dtype=torch.float32, device=x.device) * (size / target)
    low = source.floor().long().clamp_max(size - 1)
    high = (low + 1).clamp_max(size - 1)
    shape = [1] * x.ndim
    shape[axis] = target
    part = (source - low).view(shape)
    below = x.index_select(axis, low)
    return below + (x.index_select(axis, high) - below) * part


def _centre(x: Tensor, side: int) -> Tensor:
    top, left = ((n - side) // 2 for n in x.shape[2:])
    return x[:, :, top : top + side, left : left + side]
