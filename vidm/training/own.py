"""Frames that a motion network makes while it is trained: for pictures of it, and as inputs of its own training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vidm.diffusion.samplers import Sampler
from vidm.models.motion import MotionNetwork


def next_frame(
    network: MotionNetwork, sampler: Sampler, frames: Sequence[Tensor], first: Tensor, n: Tensor, noise: Tensor, label
) -> Tensor:
    """Frame n (B, 3, S, S) as the network makes it. frames: n-1, n-2, ... as far as it looks back, or to frame 0."""
    gap = (n - 1).clamp(max=network.back)
    every = torch.arange(len(n), device=n.device)
    back = torch.stack(list(frames))[gap, every] if network.back else frames[0]
    given = network.conditions(first, frames[0], n, back, gap)

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        t = t.expand(len(n))
        return network.predict(x_t, t, n, given.code, network.residual_of(first, t, n, label), label)

    return given.frame(sampler(predict, noise[:, None]))


@torch.no_grad()
def own_outputs(
    network: MotionNetwork, sampler: Sampler, batch: dict[str, Tensor], label: Tensor | None
) -> list[Tensor]:
    """Frames n-1, n-2, ... of a batch, the last `depth` of each item made by the network itself: (B, 3, S, S) each."""
    frames = [batch["previous"], *batch["history"].unbind(1)]
    for d in range(batch["own_noise"].shape[1], 0, -1):  # frame n-d is frames[d - 1]
        which = (batch["depth"] >= d).nonzero()[:, 0]
        if not len(which):
            continue
        before = [frame[which] for frame in frames[d : d + max(1, network.back + 1)]]
        at = {"first": batch["first"][which], "n": batch["n"][which] - d, "noise": batch["own_noise"][which, d - 1]}
        made = next_frame(network, sampler, before, **at, label=None if label is None else label[which])
        frames[d - 1] = frames[d - 1].index_copy(0, which, made.to(frames[d - 1].dtype))
    return frames
