"""What the motion network is told, each kept for as long as it holds.

    z                  v(x(0), x(n-1)): once a frame
    r                  of (x(0), t): once a video and step, over all its frames, as far as memory goes;
                       of (x(0), t, n), as in the official code: at each step, for it holds no longer
    scale and shift    of every PosGN, of (n, t): once for all videos in flight (vidm.models.posgn.Tables)

A value is the same whether it is kept or made again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidm.models.motion import MotionNetwork, Residual
from vidm.models.posgn import Tables
from vidm.sampling.clock import Clock


class Residuals:
    """r of a group of videos, whose batches are numbered. What does not fit `budget` (bytes) is made again."""

    def __init__(self, network: MotionNetwork, budget: int, clock: Clock) -> None:
        self.network, self.budget, self.clock = network, budget, clock
        self.keepable = network.residual is not None and "n" not in network.residual_sees
        self.kept: dict[tuple[int, int], Residual] = {}
        self.bytes, self.asked = 0, set()

    def of(
        self, batch: int, step: int, x_first: Tensor, t: Tensor, n: Tensor, label: Tensor | None, tables: Tables
    ) -> Residual:
        """r of a batch at the sampler's `step`-th timestep t (1,) and frame n (1,)."""
        key = (batch, step if "t" in self.network.residual_sees else 0)
        self.asked.add(key)
        if key in self.kept:
            return self.kept[key]
        with self.clock("encoder"):
            r = self.network.residual_of(x_first, t, n, label, tables)
        size = _bytes(r)
        if self.keepable and self.bytes + size <= self.budget:
            self.kept[key] = r
            self.bytes += size
        return r

    def report(self) -> str:
        """What was kept, for people."""
        if self.network.residual is None:
            return "residual features: none in this network"
        if not self.keepable:
            return "residual features: computed at each step, since they depend on the frame"
        share = f"{len(self.kept)} of {len(self.asked)} kept"
        return f"residual features: {share}, {self.bytes / 1e9:.2f} GB within {self.budget / 1e9:.2f} GB"


def _bytes(r: Residual) -> int:
    return sum(v.numel() * v.element_size() for v in (r if isinstance(r, list) else [r]) if isinstance(v, torch.Tensor))


def positions(frames: int, grid: int, beyond: str | None) -> list[float]:
    """Where each frame lies in the time grid that a network was trained with, 0..grid-1.

    Within the grid, at its own number. A longer video has a choice: `clamp`, where all frames beyond are like the last;
    `stretch`, where the grid is spread over the video. Raises ValueError where there is none.
    """
    if frames <= grid:
        return list(range(frames))
    if beyond == "clamp":
        return [min(n, grid - 1) for n in range(frames)]
    if beyond == "stretch":
        return [n * (grid - 1) / (frames - 1) for n in range(frames)]
    raise ValueError(f"{frames} frames are more than the grid of {grid}: clamp or stretch")
