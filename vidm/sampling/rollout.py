"""Generation, Algorithm 2: frame 0 from the content network, then frame after frame from the motion network.

    x(0) = denoise(content)
    for n = 1 .. N-1:   z = v(x(0), x(n-1));   x(n) = denoise(motion, z, r(x(0), t), n)

z is computed once a frame. r is a function of (x(0), t) in paper mode: computed at each step of frame 1, kept for the
others; where it is one of (x(0), t, n) it is computed at each step. t and n have shape (1,), so that every coordinate
MLP runs once for all videos in flight.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vidm.config import Sampling
from vidm.diffusion.samplers import Sampler
from vidm.machine import autocast
from vidm.models.content import ContentNetwork
from vidm.models.motion import MotionNetwork, Residual
from vidm.sampling.noise import VideoNoise, stacked


class Rollout:
    """Two trained networks and how to sample them."""

    def __init__(
        self,
        content: ContentNetwork,
        motion: MotionNetwork,
        facts: Sampling,
        device: torch.device,
    ) -> None:
        self.content, self.motion, self.facts, self.device = content, motion, facts, device
        common = {"name": facts.sampler, "eta": facts.eta, "clip": facts.clip}
        self.content_sampler = Sampler(content.facts.diffusion, steps=facts.content_steps, **common)
        self.motion_sampler = Sampler(motion.facts.diffusion, steps=facts.steps, **common)

    @torch.inference_mode()
    def first_frames(self, noises: list[VideoNoise], label: Tensor | None = None) -> Tensor:
        """Frame 0 of each video: (B, 3, S, S) in [-1, 1]. label (B,) where the networks know classes."""
        sampler = self.content_sampler

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            return self.content(x_t, t, label)

        with autocast(self.device, self.facts.precision):
            return sampler(predict, stacked([v.content(sampler.draws) for v in noises], self.device))

    @torch.inference_mode()
    def further_frames(
        self, x_first: Tensor, noises: list[VideoNoise], frames: int, label: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Frames 1 .. frames-1, each (B, 3, S, S) in [-1, 1], from frame 0."""
        network, sampler, x_prev = self.motion, self.motion_sampler, x_first
        kept: dict[int, Residual] = {}

        def residual(t: Tensor, n: Tensor) -> Residual:
            if "n" in network.residual_sees:
                return network.residual_of(x_first, t, n, label)
            step = int(t) if "t" in network.residual_sees else 0
            if step not in kept:
                kept[step] = network.residual_of(x_first, t, n, label)
            return kept[step]

        with autocast(self.device, self.facts.precision):
            for frame in range(1, frames):
                n = torch.tensor([frame], device=self.device)
                z = network.motion_code(x_first, x_prev)

                def predict(x_t: Tensor, t: Tensor, n: Tensor = n, z: Tensor | None = z) -> Tensor:
                    return network.predict(x_t, t, n, z, residual(t, n), label)

                noise = stacked([v.motion(frame, sampler.draws) for v in noises], self.device)
                x_prev = sampler(predict, noise)
                yield x_prev

    def videos(
        self, seed: int, videos: range, frames: int, labels: list[int] | None = None, on_frame=lambda: None
    ) -> np.ndarray:
        """Videos of these numbers, one label each where the networks know classes: (B, frames, S, S, 3) uint8."""
        size = self.content.size
        label = None if labels is None else torch.tensor(labels, device=self.device)
        noises = [VideoNoise(seed, k, size, self.facts.noise_correlation) for k in videos]
        first = self.first_frames(noises, label)
        clips = [first]
        on_frame()
        for frame in self.further_frames(first, noises, frames, label):
            clips.append(frame)
            on_frame()
        clip = torch.stack(clips, dim=1).permute(0, 1, 3, 4, 2)  # (B, N, S, S, 3)
        return ((clip + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()
