"""Generation, Algorithm 2: frame 0 from the content network, then frame after frame from the motion network.

    x(0) = denoise(content)
    for n = 1 .. N-1:   z = v(x(0), x(n-1));   x(n) = denoise(motion, z, r(x(0), t), n)

z is computed once a frame. r is a function of (x(0), t): computed at each step of frame 1, kept for the others. t and n
have shape (1,), so that every coordinate MLP runs once for all videos in flight.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vidm.config import Content, Motion, Sampling
from vidm.diffusion.samplers import Sampler
from vidm.machine import autocast
from vidm.models.content import ContentNetwork
from vidm.models.motion import MotionNetwork
from vidm.sampling.noise import VideoNoise, stacked


class Rollout:
    """Two trained networks and how to sample them."""

    def __init__(
        self,
        content: ContentNetwork,
        motion: MotionNetwork,
        content_facts: Content,
        motion_facts: Motion,
        facts: Sampling,
        device: torch.device,
    ) -> None:
        self.content, self.motion, self.facts, self.device = content, motion, facts, device
        common = {"name": facts.sampler, "eta": facts.eta, "clip": facts.clip}
        self.content_sampler = Sampler(content_facts.diffusion, steps=facts.content_steps, **common)
        self.motion_sampler = Sampler(motion_facts.diffusion, steps=facts.steps, **common)

    @torch.inference_mode()
    def first_frames(self, noises: list[VideoNoise]) -> Tensor:
        """Frame 0 of each video: (B, 3, S, S) in [-1, 1]."""
        sampler = self.content_sampler
        with autocast(self.device, self.facts.precision):
            return sampler(self.content, stacked([v.content(sampler.draws) for v in noises], self.device))

    @torch.inference_mode()
    def further_frames(self, x_first: Tensor, noises: list[VideoNoise], frames: int) -> Iterator[Tensor]:
        """Frames 1 .. frames-1, each (B, 3, S, S) in [-1, 1], from frame 0."""
        sampler, x_prev, kept = self.motion_sampler, x_first, {}
        with autocast(self.device, self.facts.precision):
            for n in range(1, frames):
                z = self.motion.motion_code(x_first, x_prev)
                frame = torch.tensor([n], device=self.device)

                def predict(x_t: Tensor, t: Tensor, z: Tensor | None = z, frame: Tensor = frame) -> Tensor:
                    step = int(t)
                    if step not in kept:
                        kept[step] = self.motion.first_features(x_first, t)
                    return self.motion.predict(x_t, t, frame, z, kept[step])

                noise = stacked([v.motion(n, sampler.draws) for v in noises], self.device)
                x_prev = sampler(predict, noise)
                yield x_prev

    def videos(self, seed: int, videos: range, frames: int, on_frame=lambda: None) -> np.ndarray:
        """Videos of these numbers: (B, frames, S, S, 3) uint8."""
        size = self.content.size
        noises = [VideoNoise(seed, k, size, self.facts.noise_correlation) for k in videos]
        first = self.first_frames(noises)
        clips = [first]
        on_frame()
        for frame in self.further_frames(first, noises, frames):
            clips.append(frame)
            on_frame()
        clip = torch.stack(clips, dim=1).permute(0, 1, 3, 4, 2)  # (B, N, S, S, 3)
        return ((clip + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()
