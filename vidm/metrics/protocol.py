"""Named protocols of the Fréchet video distance: every choice that moves the number, as data.

Published FVDs differ in how clips are taken, resized and scaled, and in the statistics; each choice moves the value
by more than most papers' improvements do. `preprocess` is the one place that makes a protocol's detector input.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vidm.errors import InputError

SIDE = 224  # what I3D sees


@dataclass(frozen=True)
class Protocol:
    """How an FVD is made. Field by field: the same value, or the numbers can't be compared."""

    name: str
    about: str
    videos: int
    """How many of each set it asks for."""
    frames: int = 16
    stride: int = 1
    start: Literal["random", "first"] = "random"
    """Of the window in a longer video: seeded and fixed by the clip's content, or frame 0."""
    seed: int = 0
    windows: Literal["one per clip"] = "one per clip"
    choice: Literal["by content hash", "by name"] = "by content hash"
    """Which videos are taken where there are more than needed."""
    resize: Literal["bilinear", "bilinear, TF1 grid"] = "bilinear"
    """Of whole frames, straight to 224 x 224, no antialias, no rounding after. Plain bilinear samples at pixel
    centres (align_corners=False), the TF1 grid at src = dst * in / out."""
    resize_verified: bool = True
    """False: what the original has inside can't be read, this is the best known."""
    low: float = -1.0
    high: float = 1.0
    """Detector input of grey level 0 and 255."""
    batch_norm_eps: float = 1e-3
    layer: Literal["logits"] = "logits"
    ddof: Literal[0, 1] = 0
    """Covariance divided by N - ddof."""
    root: str = "nuclear norm of factors, float64"
    short: Literal["dropped"] = "dropped"
    """Videos with fewer frames than a window spans; they are counted."""

    @property
    def span(self) -> int:
        """Frames of a video from a window's first to its last."""
        return (self.frames - 1) * self.stride + 1

    def facts(self) -> dict[str, Any]:
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "about"}


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol(
            name="styleganv",
            about="StyleGAN-V (Skorokhodov et al. 2022), as most papers since: 2048 videos each, 16 frames. The "
            "resize is hidden inside its TorchScript; plain bilinear is the best known",
            videos=2048,
            resize_verified=False,
        ),
        Protocol(
            name="tf",
            about="the original TensorFlow code (Unterthiner et al. 2018), which leaves the choice of clips to its "
            "caller: here as styleganv",
            videos=2048,
            resize="bilinear, TF1 grid",
            ddof=1,
        ),
        Protocol(
            name="vidm-script",
            about="VIDM's own evaluation script, with its bug: pixels reach the detector in [0, 1] instead of "
            "[-1, 1], which about halves the value. Only to compare with numbers made by it",
            videos=2048,
            choice="by name",
            resize_verified=False,
            low=0.0,
            ddof=1,
        ),
    )
}


def find(name: str) -> Protocol:
    """The protocol of that name. Raises InputError with the nearest one, or all of them for 'help'."""
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    close = difflib.get_close_matches(name, PROTOCOLS, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(PROTOCOLS)}"
    raise InputError(f"no protocol '{name}'; {hint}")


def table() -> str:
    """All protocols, for people."""
    lines = []
    for p in PROTOCOLS.values():
        lines += [
            f"{p.name}: {p.about}",
            f"  {p.videos} videos, {p.frames} frames, stride {p.stride}, start {p.start}, {p.choice}",
            f"  resize {p.resize}, range [{p.low:g}, {p.high:g}], batch norm eps {p.batch_norm_eps:g}, ddof {p.ddof}",
        ]
    return "\n".join(lines)


def preprocess(clips: np.ndarray | Tensor, protocol: Protocol) -> Tensor:
    """The detector's input of a protocol: (B,T,H,W,3) uint8 -> (B,3,T,224,224) float32, channels last in memory."""
    if isinstance(clips, np.ndarray):  # torch takes no mapped or otherwise read-only memory, nor negative strides
        clips = torch.from_numpy(np.array(clips, order="C"))
    if clips.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[-1] != 3:
        raise InputError(f"clips must be (B,T,H,W,3) uint8, not {tuple(clips.shape)} {clips.dtype}")
    batch, frames, height, width = clips.shape[:4]
    x = clips.flatten(0, 1).permute(0, 3, 1, 2).float()  # (B*T,3,H,W), channels last in memory
    if (height, width) != (SIDE, SIDE):
        if protocol.resize == "bilinear":
            x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        else:
            x = _bilinear_tf1(_bilinear_tf1(x, 2), 3).contiguous(memory_format=torch.channels_last)
    x = x.mul_((protocol.high - protocol.low) / 255).add_(protocol.low)
    return x.permute(0, 2, 3, 1).unflatten(0, (batch, frames)).permute(0, 4, 1, 2, 3)


def _bilinear_tf1(x: Tensor, axis: int) -> Tensor:
    """tf.image.resize_bilinear of TF 1 along one axis: source = target * in / out, ends clamped."""
    size = x.shape[axis]
    source = torch.arange(SIDE, dtype=torch.float32, device=x.device) * (size / SIDE)
    low = source.floor().long().clamp_max(size - 1)
    high = (low + 1).clamp_max(size - 1)
    shape = [1] * x.ndim
    shape[axis] = SIDE
    part = (source - low).view(shape)
    below = x.index_select(axis, low)
    return below + (x.index_select(axis, high) - below) * part
