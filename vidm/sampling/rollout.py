"""Generation, Algorithm 2: frame 0 from the content network, then frame after frame from the motion network.

    x(0) = denoise(content)
    for n = 1 .. N-1:   z = v(x(0), x(n-1));   x(n) = base + scale_n denoise(motion, z, r(x(0), t), n)

base is 0 and scale_n 1 unless the network diffuses a difference (vidm.models.motion).

A group of videos goes through the frames together, batch by batch. The loop over (n, t) lies outside the one over
batches, so that coordinates are computed once for the group and dropped with their (n, t). What else is kept, and for
how long: vidm.sampling.conditions. t and n have shape (1,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from vidm.config import Sampling
from vidm.diffusion.samplers import Chain, Sampler
from vidm.machine import autocast, free_memory
from vidm.models.content import ContentNetwork
from vidm.models.motion import Conditions, MotionNetwork
from vidm.models.posgn import Tables
from vidm.sampling.clock import Clock
from vidm.sampling.conditions import Residuals, positions
from vidm.sampling.noise import Drawn, VideoNoise, stacked


@dataclass
class Batch:
    """Videos that pass the network together; frames are (B, 3, S, S) in [-1, 1], label (B,).

    recent: frames n-1, n-2, ... as far as the network looks back.
    """

    noises: list[VideoNoise]
    label: Tensor | None
    first: Tensor | None = None
    recent: list[Tensor] = field(default_factory=list)


class Rollout:
    """Two trained networks and how to sample them; the content network only where frames are not given.

    `cache`: bytes for residual features, by default a quarter of the free memory. `beyond`: what frames beyond the
    trained grid mean (`conditions.positions`).
    """

    def __init__(
        self,
        content: ContentNetwork | None,
        motion: MotionNetwork,
        facts: Sampling,
        device: torch.device,
        cache: int | None = None,
        beyond: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.content, self.motion, self.facts, self.device = content, motion, facts, device
        self.cache = free_memory(device) // 4 if cache is None else cache
        self.beyond, self.clock = beyond, clock or Clock()
        common = {"eta": facts.eta, "clip": facts.clip}
        # A compiled network has CUDA graphs on a GPU: shapes are static but for the last batch.
        options = {"mode": "reduce-overhead", "dynamic": False, "fullgraph": True}
        build = partial(torch.compile, **options) if facts.compile else lambda predict: predict
        if content is not None:
            self.content_sampler = Sampler(
                content.facts.diffusion, facts.content_sampler or facts.sampler, facts.content_steps, **common
            )
            self.predict_content = build(content.forward)
        self.motion_sampler = Sampler(
            motion.facts.diffusion,
            facts.sampler,
            facts.steps,
            sigma_max=facts.sigma_max,
            sigma_min=facts.sigma_min,
            bounded=motion.facts.target == "frame",
            **common,
        )
        self.predict_motion = build(motion.predict)
        self.drawn = Drawn(device)
        self.report = ""

    @torch.inference_mode()
    def first_frames(self, noises: list[VideoNoise], label: Tensor | None = None) -> Tensor:
        """Frame 0 of each video: (B, 3, S, S) in [-1, 1]. label (B,) where the networks know classes."""
        sampler = self.content_sampler
        with self.clock("noise"):
            noise = stacked([v.content(sampler.draws) for v in noises], self.device)
        with self.clock("content"), autocast(self.device, self.facts.precision):
            return sampler(lambda x_t, t: self.predict_content(x_t, t, label), noise)

    @torch.inference_mode()
    def next_frame(self, batches: list[Batch], n: int, position: float, residuals: Residuals) -> None:
        """Frame n of all videos, to the front of `recent` of their batches."""
        network, sampler, clock = self.motion, self.motion_sampler, self.clock
        chains: list[Chain] = []
        where = torch.tensor([position], device=self.device)
        with autocast(self.device, self.facts.precision):
            every: list[Conditions] = []
            for batch in batches:
                with clock("spynet"):
                    back = min(network.back, len(batch.recent) - 1)
                    gap = torch.tensor([back], device=self.device)
                    every.append(network.conditions(batch.first, batch.recent[0], where, batch.recent[back], gap))
                with clock("noise"):
                    noise = stacked(self.drawn.motion(batch.noises, n, sampler.draws), self.device)
                chains.append(sampler.start(noise))
            for step, t in enumerate(sampler.timesteps.to(self.device).split(1)):
                tables = Tables(partial(clock, "coordinates"))
                shared = None if self.facts.compile else tables  # a compiled network has its own coordinates inside
                for k, (batch, given, chain) in enumerate(zip(batches, every, chains, strict=True)):
                    r = residuals.of(k, step, batch.first, t, where, batch.label, tables)
                    with clock("unet"):
                        output = self.predict_motion(chain.input, t, where, given.code, r, batch.label, shared)
                    with clock("scheduler"):
                        chain.step(output)
        for batch, given, chain in zip(batches, every, chains, strict=True):
            batch.recent = [given.frame(chain.clean), *batch.recent][: network.back + 1]

    def videos(
        self,
        noises: list[VideoNoise],
        frames: int,
        labels: list[int] | None = None,
        given: np.ndarray | None = None,
        on_frame: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """One video for each of `noises`: (V, frames, S, S, 3) uint8.

        labels: one a video where the networks know classes. given: (V, M, S, S, 3) uint8, the first M frames; without
        them the content network makes frame 0, once for all videos that share it. on_frame is called after each.
        """
        size, per = noises[0].size, self.facts.batch
        clips = np.empty((len(noises), frames, size, size, 3), np.uint8)
        label = None if labels is None else torch.tensor(labels, device=self.device)
        parts = [slice(k, k + per) for k in range(0, len(noises), per)]
        batches = [Batch(noises[part], None if label is None else label[part]) for part in parts]
        start = 1 if given is None else given.shape[1]
        self.drawn.begin(noises, start, self.motion_sampler.draws)
        if given is None:
            first = self._shared_first_frames(noises, label)
            clips[:, 0] = as_bytes(first)
        else:
            clips[:, :start] = given
            first = as_images(given[:, 0], self.device)
        for batch, part in zip(batches, parts, strict=True):
            batch.first = first[part]
            batch.recent = [batch.first]
            if start > 1:
                known = range(start - 1, max(-1, start - 2 - self.motion.back), -1)
                batch.recent = [as_images(given[part, n], self.device) for n in known]
        for _ in range(start):
            on_frame()
        residuals = Residuals(self.motion, self.cache, self.clock)
        place = positions(frames, self.motion.frames, self.beyond)
        for n in range(start, frames):
            if n + 1 < frames:
                self.drawn.begin(noises, n + 1, self.motion_sampler.draws)
            self.next_frame(batches, n, place[n], residuals)
            with self.clock("io"):
                for batch, part in zip(batches, parts, strict=True):
                    clips[part, n] = as_bytes(batch.recent[0])
            on_frame()
        self.report = residuals.report()
        return clips

    def _shared_first_frames(self, noises: list[VideoNoise], label: Tensor | None) -> Tensor:
        """Each different frame 0 once, batch by batch, for all of `noises`."""
        place = {v.content_of: k for k, v in reversed(list(enumerate(noises)))}  # the first video that has it
        which = sorted(place.values())
        made = []
        for k in range(0, len(which), self.facts.batch):
            part = which[k : k + self.facts.batch]
            made.append(self.first_frames([noises[i] for i in part], None if label is None else label[part]))
        row = {i: k for k, i in enumerate(which)}
        return torch.cat(made)[[row[place[v.content_of]] for v in noises]]


def as_bytes(x: Tensor) -> np.ndarray:
    """(B, 3, S, S) in [-1, 1] -> (B, S, S, 3) uint8."""
    return ((x.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()


def as_images(frames: np.ndarray, device: torch.device) -> Tensor:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
