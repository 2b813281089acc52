"""How videos change over their frames, beside real ones: an FVD of whole clips does not show that they blur or freeze.

Of frame n of a clip, in grey levels 0..255:

    sharpness  mean square of x[i,j] - x[i+1,j] - x[i,j+1] + x[i+1,j+1], the mixed second difference, over channels too
    contrast   standard deviation over pixels of the grey, which is the mean of the channels
    mean       mean of the grey
    motion     mean |x_n - x_(n-1)| over pixels and channels; 0 at n = 0

Each is averaged over clips, and then divided by that of the real ones at the same n.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vidm.metrics.features import Series

KINDS = ("sharpness", "contrast", "mean", "motion")
LOW, HIGH = 0.7, 1.4  # a ratio beyond these at the last frame is a warning
Ratios = dict[str, list[float | None]]


class OverTime(Series):
    """The four KINDS of every frame: (N,T,4) float64."""

    cost = 0.0
    facts = {"series": "over time"}  # noqa: RUF012 - never changed

    def __init__(self, frames: int, device: torch.device) -> None:
        super().__init__(frames, device)
        self.device = device

    @torch.inference_mode()
    def _compute(self, windows: tuple[np.ndarray, ...]) -> np.ndarray:
        # Clip by clip, which on a CPU is four times as fast as a batch: what is in between stays in its caches.
        return torch.stack([of_clip(torch.from_numpy(w).to(self.device)) for w in windows]).cpu().numpy()


def of_clip(clip: Tensor) -> Tensor:
    """The KINDS of each frame of (T,H,W,3) uint8: (T,4) float64, on the clip's device.

    float64 has the exact sum of whole numbers, so that no order of summing changes a digit.
    """
    x = clip.float()
    mixed = x.diff(dim=1).diff(dim=2)
    grey = x[..., 0] + x[..., 1] + x[..., 2]  # three times the grey
    found = torch.zeros(len(x), len(KINDS), dtype=torch.float64, device=x.device)
    # Of frames one pixel wide there is nothing to sum: 0.
    found[:, 0] = mixed.square_().sum((1, 2, 3), dtype=torch.float64) / max(1, mixed[0].numel())
    found[:, 1] = grey.double().std((1, 2), correction=0) / 3
    found[:, 2] = grey.mean((1, 2), dtype=torch.float64) / 3
    found[1:, 3] = x.diff(dim=0).abs_().mean((1, 2, 3), dtype=torch.float64)
    return found


def motion(rows: np.ndarray) -> float:
    """Mean |x_n - x_(n-1)| over the frames from n = 1 on, and over clips (N,T,4)."""
    return float(rows[:, 1:, KINDS.index("motion")].mean()) if rows.shape[1] > 1 else 0.0


def ratios(ours: np.ndarray, real: np.ndarray) -> Ratios:
    """{kind: a ratio for each frame} of the means over clips (N,T,4) and (M,T,4); None where the real one is 0.

    So `motion`, which frame 0 has not, begins with None.
    """
    means = [side.mean(0).T.tolist() for side in (ours, real)]
    return {
        kind: [a / b if b else None for a, b in zip(*both, strict=True)]
        for kind, *both in zip(KINDS, *means, strict=True)
    }


def last(found: Ratios) -> tuple[int, dict[str, float]]:
    """(last frame, {kind: its ratio there}), without the undefined ones."""
    return len(found["motion"]) - 1, {kind: values[-1] for kind, values in found.items() if values[-1] is not None}


def cautions(found: Ratios, others: str = "the test clips") -> list[str]:
    """A sentence for each ratio that is too low or too high at the last frame. others: whose value it is over."""
    frame, ends = last(found)
    return [
        f"{'mean grey level' if kind == 'mean' else kind} of frame {frame} is {ratio:.2f} "
        f"{'of' if ratio < 1 else 'times'} that of {others}"
        for kind, ratio in ends.items()
        if not LOW <= ratio <= HIGH
    ]
