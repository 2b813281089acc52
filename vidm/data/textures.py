"""Pictures that move in a known way: random textures, two layers of them, each with a smooth motion of its own.

    supporting(p) = C(p)        reference(p) = C(p + flow(p))

C is a texture that is defined everywhere (mirrored beyond its border), so the flow is exact at every pixel, also where
it leaves the picture. The second layer lies over the first behind a mask that moves with it: edges of motion, and
things that get covered. Everything is sampled at twice the resolution and averaged.

symbol      meaning                                                              shape
reference   the picture that the flow starts from, [0, 1]                        (B, 3, S, S)
supporting  the one that it points into, [0, 1]                                  (B, 3, S, S)
flow        (dx, dy) in pixels: supporting(p + flow) shows reference(p)          (B, 2, S, S)
weight      how sure that is, [0, 1]                                             (B, 1, S, S)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

FINER = 2  # samples along a pixel's side


class Pairs(NamedTuple):
    reference: Tensor
    supporting: Tensor
    flow: Tensor
    weight: Tensor


def uniform(rng: Generator, count: int, low: float, high: float) -> Tensor:
    """(count, 1, 1, 1), one number for each picture."""
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=rng)


def log_uniform(rng: Generator, count: int, low: float, high: float) -> Tensor:
    """The same, its logarithm uniform."""
    return torch.exp(uniform(rng, count, math.log(low), math.log(high)))


def chance(rng: Generator, count: int, probability: float) -> Tensor:
    """The same: 1 with this probability, else 0."""
    return (torch.rand(count, 1, 1, 1, generator=rng) < probability).float()


def noise(rng: Generator, count: int, channels: int, side: int) -> Tensor:
    """Noise of several octaves, (count, channels, side, side), unit variance; some rough, some smooth."""
    slope, field, cells, gain = uniform(rng, count, 0.4, 0.9), 0.0, 2, 1.0
    while cells <= side:
        octave = torch.randn(count, channels, cells, cells, generator=rng)
        field = field + gain * F.interpolate(octave, size=(side, side), mode="bilinear", align_corners=False)
        cells, gain = 2 * cells, gain * slope
    return field / field.std((2, 3), keepdim=True).clamp_min(1e-3)


def textures(rng: Generator, count: int, side: int) -> Tensor:
    """Pictures (count, 3, side, side) in [0, 1]: noise, blobs, creases, stripes and edges over a gradient."""
    height, detail, tint = noise(rng, count, 3, side).split(1, dim=1)
    kind = torch.randint(4, (count, 1, 1, 1), generator=rng)
    waves = torch.sin(uniform(rng, count, 2, 5) * height)
    shape = torch.where(kind == 0, height.abs() - 0.7, torch.where(kind == 1, waves, height))
    # From a haze to a hard edge.
    cover = torch.sigmoid(log_uniform(rng, count, 0.7, 25) * (shape - uniform(rng, count, -0.8, 0.8)))
    low, far, high = torch.rand(3, count, 3, 1, 1, generator=rng)
    angle = uniform(rng, count, 0, 2 * math.pi)
    line = torch.linspace(-0.7, 0.7, side)
    ramp = 0.5 + 0.5 * (torch.cos(angle) * line + torch.sin(angle) * line[:, None])
    ground = low + ramp * (far - low)
    picture = ground + cover * (high + uniform(rng, count, 0, 0.3) * detail - ground)
    hue = torch.randn(count, 3, 1, 1, generator=rng)
    return (picture + 0.05 * hue * tint + uniform(rng, count, 0, 0.06) * detail).clamp(0, 1)


def motion(rng: Generator, count: int, size: int) -> Tensor:
    """Smooth flows on the finer grid, (count, 2, FINER size, FINER size), in pixels of the picture.

    A shift, of a 300th to a quarter of the picture; turning, growing, shearing; and a warp that varies smoothly.
    """
    grid = FINER * size
    line = (torch.arange(grid) + 0.5) / grid - 0.5
    x, y = line.expand(grid, grid), line[:, None].expand(grid, grid)
    angle = uniform(rng, count, 0, 2 * math.pi)
    shift = log_uniform(rng, count, 0.003, 0.25) * torch.cat([torch.cos(angle), torch.sin(angle)], dim=1)
    linear = 0.1 * uniform(rng, count, 0, 1) ** 2 * torch.randn(count, 4, 1, 1, generator=rng)
    a, b, c, d = linear.split(1, dim=1)
    affine = torch.cat([a * x + b * y, c * x + d * y], dim=1)
    cells = int(torch.randint(3, 9, (), generator=rng))
    warp = torch.randn(count, 2, cells, cells, generator=rng)
    warp = F.interpolate(warp, size=(grid, grid), mode="bicubic", align_corners=True)
    warp = warp * log_uniform(rng, count, 0.001, 0.02) * chance(rng, count, 0.6)
    return size * (shift + affine + warp)


def _seen(canvas: Tensor, at: Tensor) -> Tensor:
    """The canvas at places (B, 2, h, w), -1..1 over its sides, mirrored beyond."""
    return F.grid_sample(canvas, at.permute(0, 2, 3, 1), padding_mode="reflection", align_corners=False)


def moving(rng: Generator, size: int, canvas: Tensor, over: Tensor) -> Pairs:
    """Pairs of (size, size) pictures whose ground is `canvas` and whose upper layer `over`, (B, 3, m, m) each."""
    count, grid = len(canvas), FINER * size
    line = ((torch.arange(grid) + 0.5) / grid - 0.5) * 2
    here = torch.stack([line.expand(grid, grid), line[:, None].expand(grid, grid)])[None]
    zoom = uniform(rng, count, 0.45, 1.0)
    place = 0.3 * (2 * torch.rand(count, 2, 1, 1, generator=rng) - 1)
    below, above = motion(rng, count, size), motion(rng, count, size)
    # Some upper layers stand still, some go with the ground, faster or slower.
    kind = torch.randint(4, (count, 1, 1, 1), generator=rng)
    above = torch.where(kind == 0, 0 * above, torch.where(kind == 1, uniform(rng, count, 0.3, 2) * below, above))
    mask = noise(rng, count, 1, max(16, canvas.shape[-1] // 4)) - uniform(rng, count, -0.3, 1.2)
    mask = torch.sigmoid(log_uniform(rng, count, 2, 30) * mask) * chance(rng, count, 0.5)
    upper = torch.cat([over, F.interpolate(mask, size=over.shape[-2:], mode="bilinear", align_corners=False)], dim=1)

    def picture(ground: Tensor, front: Tensor) -> tuple[Tensor, Tensor]:
        """What is seen when the layers have moved by so much, and the upper one's opacity."""
        bottom = _seen(canvas, place + zoom * (here + 2 / size * ground))
        top = _seen(upper, place + zoom * (here + 2 / size * front))
        alpha = top[:, 3:]
        return bottom + alpha * (top[:, :3] - bottom), alpha

    supporting, _ = picture(0 * below, 0 * above)
    reference, alpha = picture(below, above)
    flow = torch.where(alpha > 0.5, above, below)
    images = [F.avg_pool2d(v, FINER) for v in (reference, supporting, flow)]
    return Pairs(*images, weight=torch.ones(count, 1, size, size))
