"""Two published ways from a frame to a square, to the pixel: for numbers that compare with theirs.

Both take one upright frame, (H, W, 3) uint8, and give (side, side, 3) uint8.
"""

from __future__ import annotations

import numpy as np


def centre_crop_bilinear(frame: np.ndarray, side: int) -> np.ndarray:
    """The centre square, then bilinear between pixel centres, without antialias; rounded. As DIGAN and VIDM.

    Along each axis, output i samples at s = (i + 1/2) L / side - 1/2, clamped to the picture, where L is the side
    of the square: out = (1 - f) x[floor(s)] + f x[floor(s) + 1], f = s - floor(s). On shrinking by more than two,
    pixels between the samples count for nothing: that is their aliasing, kept.
    """
    height, width, _ = frame.shape
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = frame[top : top + short, left : left + short]
    at = np.clip(
        (np.arange(side, dtype=np.float32) + np.float32(0.5)) * np.float32(short / side) - np.float32(0.5), 0, None
    )
    low = np.minimum(at.astype(np.int64), short - 1)
    high = np.minimum(low + 1, short - 1)
    part = (at - low).astype(np.float32)[:, None]
    rows = square[low].astype(np.float32) * (1 - part[..., None]) + square[high] * part[..., None]
    out = rows[:, low] * (1 - part) + rows[:, high] * part
    return np.rint(out).astype(np.uint8)


def lanczos_then_crop(frame: np.ndarray, side: int) -> np.ndarray:
    """Pillow's Lanczos of the whole frame to a short side of `side`, then the centre. As StyleGAN-V."""
    from PIL import Image

    height, width, _ = frame.shape
    short = min(height, width)
    size = (int(side * width / short), int(side * height / short))
    scaled = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))
    top, left = round((size[1] - side) / 2), round((size[0] - side) / 2)
    return np.ascontiguousarray(scaled[top : top + side, left : left + side])


RECIPES = {"centre-crop bilinear": centre_crop_bilinear, "lanczos then crop": lanczos_then_crop}
