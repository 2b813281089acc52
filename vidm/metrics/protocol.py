"""From a protocol's words to the detector's input: the one place where its preprocessing is done."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vidm.errors import InputError
from vidm.metrics.resize import resize
from vidm.protocols import PROTOCOLS, Protocol, find, table

__all__ = ["PROTOCOLS", "SIDE", "Protocol", "find", "preprocess", "table"]

SIDE = 224  # what I3D sees


def preprocess(clips: np.ndarray | Tensor, protocol: Protocol) -> Tensor:
    """The detector's input of a protocol: (B,T,H,W,3) uint8 -> (B,3,T,224,224) float32, channels last in memory."""
    if isinstance(clips, np.ndarray):  # torch takes no mapped or otherwise read-only memory, nor negative strides
        clips = torch.from_numpy(np.array(clips, order="C"))
    if clips.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[-1] != 3:
        raise InputError(f"clips must be (B,T,H,W,3) uint8, not {tuple(clips.shape)} {clips.dtype}")
    batch, frames = clips.shape[:2]
    x = clips.flatten(0, 1).permute(0, 3, 1, 2).float()  # (B*T,3,H,W), channels last in memory
    x = resize(x, SIDE, protocol.kernel, protocol.order).contiguous(memory_format=torch.channels_last)
    x = x.mul_((protocol.high - protocol.low) / 255).add_(protocol.low)
    return x.permute(0, 2, 3, 1).unflatten(0, (batch, frames)).permute(0, 4, 1, 2, 3)
