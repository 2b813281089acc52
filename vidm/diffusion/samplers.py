"""From noise to a clean frame. diffusers' schedulers do the arithmetic; a network is any callable.

    sampler = Sampler(diffusion, "ddim", steps=20, eta=0.0, clip=True)
    x_0 = sampler(predict, noise)

predict(x_t, t) takes x_t (B, C, H, W) and t (1,) int64, and returns what the diffusion's `prediction` names. `noise` is
(B, 1 + sampler.draws, C, H, W): x_T first, then one draw for each step that needs one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from vidm.config import Diffusion
from vidm.diffusion.schedule import Schedule


class Sampler:
    """Ancestral DDPM and DDIM: the same update, with eta 1 and any eta.

    DDPM visits 0, k, 2k, .. as the official code does; DDIM ends at the last step of training (Lin et al., 2024).
    """

    def __init__(self, facts: Diffusion, name: str, steps: int, eta: float, clip: bool) -> None:
        self.eta = 1.0 if name == "ddpm" else eta
        self.scheduler = DDIMScheduler(
            num_train_timesteps=facts.steps,
            trained_betas=Schedule(facts).betas.float().numpy(),
            prediction_type={"eps": "epsilon", "v": "v_prediction"}[facts.prediction],
            clip_sample=clip,
            timestep_spacing="leading" if name == "ddpm" else "trailing",
        )
        self.scheduler.set_timesteps(steps)
        self.draws = steps if self.eta > 0 else 0

    def __call__(self, predict: Callable[[Tensor, Tensor], Tensor], noise: Tensor) -> Tensor:
        x = noise[:, 0]
        for i, t in enumerate(self.scheduler.timesteps):
            output = predict(x, t.view(1).to(x.device)).float()
            x = self.scheduler.step(
                output,
                t,
                x,
                eta=self.eta,
                use_clipped_model_output=True,
                variance_noise=noise[:, 1 + i] if self.draws else None,
            ).prev_sample
        return torch.clamp(x, -1, 1)
