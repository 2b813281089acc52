"""SpyNet (Ranjan & Black, 2017): optical flow, coarse to fine, six small networks.

    flow_l = up2(flow_{l-1}) * 2 + G_l([reference_l, warp(supporting_l, up2(flow_{l-1}) * 2), up2(flow_{l-1}) * 2])

symbol      meaning                                                    shape
reference   the frame that the flow starts from                        (B, 3, H, W)
supporting  the frame that it points into                              (B, 3, H, W)
flow        (dx, dy) in pixels: warp(supporting, flow) ~ reference     (B, 2, H, W)

The input is resized to a multiple of 32 and the flow back, so that any size is taken. The pyramid has six levels as in
the official VIDM code and BasicVSR; by the original's size rule an image is halved while a side is over 32 pixels, at
most five times, and a smaller image uses the networks of the coarsest levels only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 6
SMALLEST = 32  # pixels; the original halves no further
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, of images in [0, 1]
NAME = re.compile(r"(?:\w+\.)*?\w+\.(?P<level>\d)\.\w+\.(?P<layer>\d)\.(?P<conv>conv\.)?(?P<kind>weight|bias)")


def warp(image: Tensor, flow: Tensor, mode: Literal["bilinear", "bicubic"] = "bilinear") -> Tensor:
    """Backward warping: out(x) = image(x + flow(x)), border padding.

    image (B, C, H, W), flow (B, 2, H, W) in pixels, (dx, dy).
    """
    height, width = image.shape[-2:]
    y = torch.arange(height, device=flow.device, dtype=flow.dtype)
    x = torch.arange(width, device=flow.device, dtype=flow.dtype)
    u = 2 * (x + flow[:, 0]) / max(width - 1, 1) - 1
    v = 2 * (y[:, None] + flow[:, 1]) / max(height - 1, 1) - 1
    grid = torch.stack([u, v], dim=-1)
    return F.grid_sample(image, grid, mode=mode, padding_mode="border", align_corners=True)


def endpoint_error(flow: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Mean of |flow - truth| in pixels, weighted; flows (B, 2, H, W), weight (B, 1, H, W)."""
    return ((flow - truth).norm(dim=1, keepdim=True) * weight).sum() / weight.sum().clamp_min(1e-6)


class _Level(nn.Module):
    """One level: [reference, warped, flow] (B, 8, h, w) -> correction of the flow (B, 2, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 32, 64, 32, 16, 2)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 7, padding=3) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs[:-1]:
            x = F.relu(conv(x))
        return self.convs[-1](x)


class SpyNet(nn.Module):
    """SpyNet(input_range=(low, high), levels="six")(reference, supporting) -> flow (B, 2, H, W), pixels.

    No pretrained weights inside: `load_pretrained` puts them in. `input_range` names what the images are given in.
    (0, 1) is what ImageNet's mean and standard deviation are made for. (-1, 1) is fed as it is, without rescaling, as
    the official VIDM code does. Flow, pyramid and warping stay in fp32 under autocast: a bf16 pixel position can be
    off by a quarter of a pixel.
    """

    def __init__(self, input_range: tuple[float, float] = (0, 1), levels: Literal["six", "by-size"] = "six") -> None:
        super().__init__()
        if tuple(input_range) not in {(0, 1), (-1, 1)}:
            raise ValueError(f"input_range = {input_range}: must be (0, 1) or (-1, 1)")
        if levels not in ("six", "by-size"):
            raise ValueError(f"levels = {levels!r}: must be 'six' or 'by-size'")
        self.input_range, self.by_size = tuple(input_range), levels == "by-size"
        self.levels = nn.ModuleList(_Level() for _ in range(LEVELS))
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def load_pretrained(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights by the names that PyTorch ports give them, {l} a level and {i} a convolution, 0..4:

        `basic_module.{l}.basic_module.{i}.conv.*`     BasicVSR and the official VIDM code
        `basic_module.{l}.basic_module.{2 i}.*`        spynet_*.pth
        `netBasic.{l}.netBasic.{2 i}.*`                network-*.pytorch; also with `module` for `net`

        Raises ValueError where a name is none of these, RuntimeError where one is missing or has another shape.
        """
        state = {}
        for name, value in weights.items():
            if name.rsplit(".", 1)[-1] in {"mean", "std"}:
                continue
            found = NAME.fullmatch(name)
            if not found:
                raise ValueError(f"'{name}' is no name of a SpyNet weight")
            layer = int(found["layer"])  # some count the activations between the convolutions, too
            layer = layer if found["conv"] else layer // 2
            state[f"levels.{found['level']}.convs.{layer}.{found['kind']}"] = value.float()
        self.load_state_dict(state, strict=True)

    def pyramid(self, image: Tensor, levels: int = LEVELS) -> list[Tensor]:
        """The image at each of the coarsest `levels` levels, the coarsest first."""
        images = [(image.float() - self.mean) / self.std]
        while len(images) < levels and not (self.by_size and max(images[-1].shape[-2:]) <= SMALLEST):
            images.append(F.avg_pool2d(images[-1], 2, count_include_pad=False))
        return images[::-1]

    def flows(self, reference: Tensor, supporting: Tensor, levels: int = LEVELS) -> list[Tensor]:
        """The flow of each of the coarsest `levels` levels, in its own pixels, the coarsest first.

        The images are those of the finest of these levels; their sides are multiples of 2 ** (levels - 1).
        """
        pyramids = self.pyramid(reference, levels), self.pyramid(supporting, levels)
        found: list[Tensor] = []
        for network, ref, sup in zip(self.levels, *pyramids, strict=False):  # by size: fewer images
            if found:
                flow = 2 * F.interpolate(found[-1], size=ref.shape[-2:], mode="bilinear", align_corners=True)
            else:
                flow = ref.new_zeros(len(ref), 2, *ref.shape[-2:])
            found.append(flow + network(torch.cat([ref, warp(sup, flow), flow], dim=1)).float())
        return found

    def forward(self, reference: Tensor, supporting: Tensor) -> Tensor:
        height, width = reference.shape[-2:]
        up = (-(-height // 32) * 32, -(-width // 32) * 32)
        if up != (height, width):
            reference, supporting = (
                F.interpolate(v.float(), size=up, mode="bilinear", align_corners=False) for v in (reference, supporting)
            )
        flow = self.flows(reference, supporting)[-1]
        if up != (height, width):
            flow = F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=False)
            flow = flow * flow.new_tensor([width / up[1], height / up[0]]).view(1, 2, 1, 1)
        return flow
