"""From noise to a clean frame; a network is any callable.

    sampler = Sampler(diffusion, "ddim", steps=20, eta=0.0, clip=True)
    x_0 = sampler(predict, noise)

    ddpm   x_{t-1} ~ p(x_{t-1} | x_t), with the variance that the experiment names (vidm.diffusion.gaussian)
    ddim   Song et al. (2021), Eq. 12, by diffusers; any eta, 1 is as noisy as ddpm with fixed-small

predict(x_t, t) takes x_t (B, C, H, W) and t (1,) int64, the step of training, and returns what the diffusion's
`prediction` names, with learned-range C more channels. `noise` is (B, 1 + sampler.draws, C, H, W): x_T first, then one
draw for each step that needs one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from vidm.config import Diffusion
from vidm.diffusion.gaussian import p_sample, split_output
from vidm.diffusion.schedule import Schedule, respaced


class Ancestral:
    """The steps 0, k, 2k, .. as in the official code, k = T // steps, each a draw from p."""

    def __init__(self, facts: Diffusion, steps: int, clip: bool) -> None:
        kept = torch.arange(steps) * (facts.steps // steps)
        self.schedule, self.variance, self.clip = respaced(Schedule(facts), kept), facts.variance, clip
        self.timesteps = kept.flip(0)

    def step(self, t: Tensor, output: Tensor, x: Tensor, noise: Tensor) -> Tensor:
        # The network sees the step of training, the tables the step of the chain.
        own = torch.searchsorted(self.schedule.timesteps, t).view(1).to(x.device)
        return p_sample(self.schedule, self.variance, output, x, own, noise, self.clip)


class Ddim:
    """Evenly spaced steps that end at the last one of training (Lin et al., 2024)."""

    def __init__(self, facts: Diffusion, steps: int, eta: float, clip: bool) -> None:
        self.eta, self.variance = eta, facts.variance
        self.scheduler = DDIMScheduler(
            num_train_timesteps=facts.steps,
            trained_betas=Schedule(facts).betas.float().numpy(),
            prediction_type={"eps": "epsilon", "v": "v_prediction"}[facts.prediction],
            clip_sample=clip,
            timestep_spacing="trailing",
        )
        self.scheduler.set_timesteps(steps)
        self.timesteps = self.scheduler.timesteps

    def step(self, t: Tensor, output: Tensor, x: Tensor, noise: Tensor | None) -> Tensor:
        prediction, _ = split_output(self.variance, output, x.shape[1])  # DDIM has its own variance
        return self.scheduler.step(
            prediction, t, x, eta=self.eta, use_clipped_model_output=True, variance_noise=noise
        ).prev_sample


class Sampler:
    """Ancestral DDPM, or DDIM with any eta; `timesteps` (steps,) int64, descending, are those of training it visits.

    Raises ValueError where it is to take more steps than the diffusion has, or none.
    """

    def __init__(self, facts: Diffusion, name: str, steps: int, eta: float, clip: bool) -> None:
        if not 0 < steps <= facts.steps:
            raise ValueError(f"steps: {steps} is not within 1..{facts.steps}, the diffusion's steps")
        self.method = Ancestral(facts, steps, clip) if name == "ddpm" else Ddim(facts, steps, eta, clip)
        self.timesteps = self.method.timesteps
        self.draws = steps if name == "ddpm" or eta > 0 else 0

    def __call__(self, predict: Callable[[Tensor, Tensor], Tensor], noise: Tensor) -> Tensor:
        x = noise[:, 0]
        for i, t in enumerate(self.timesteps):
            output = predict(x, t.view(1).to(x.device)).float()
            x = self.method.step(t, output, x, noise[:, 1 + i] if self.draws else None)
        return torch.clamp(x, -1, 1)
