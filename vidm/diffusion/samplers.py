"""From noise to a clean frame; a network is any callable.

    sampler = Sampler(diffusion, "ddim", steps=20, eta=0.0, clip=True)
    x_0 = sampler(predict, noise)

    ddpm              x_{t-1} ~ p(x_{t-1} | x_t), with the variance that the experiment names (vidm.diffusion.gaussian)
    ddim              Song et al. (2021), Eq. 12; any eta, 1 is as noisy as ddpm with fixed-small
    dpm-solver++      Lu et al. (2022), 2M: second order, one evaluation a step
    sde-dpm-solver++  its stochastic form: the reverse diffusion instead of the probability flow, noise at each step
    unipc             Zhao et al. (2023), order 2 with its corrector, one evaluation a step

ddim and the multistep solvers are those of diffusers. ddpm is ours: theirs draws its own noise.

predict(x_t, t) takes x_t (B, C, H, W), scaled where the diffusion says so (`scaled_input`), and t (1,) int64, the step
of training. It returns what the diffusion's `prediction` names, with learned-range C more channels. `noise` is
(B, 1 + sampler.draws, C, H, W): x_T first, then one draw for each step that needs one.

A method has `timesteps` and `step(t, output, x, noise) -> x` at the next one, with t on the CPU. `begin(device)` gives
the method for one chain: a multistep solver keeps the outputs of earlier steps, so that each batch in flight needs its
own. On a GPU no step waits for it, but for unipc: its corrector solves a 2 x 2 system there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import diffusers  # loads a scheduler when it is first named; the multistep solvers bring scipy, two seconds
import torch
from torch import Tensor

from vidm.config import Diffusion
from vidm.diffusion.gaussian import p_sample, predict_xstart, split_output
from vidm.diffusion.schedule import Schedule, log_snr_timesteps, noise_levels, respaced, trailing_timesteps


class Options(NamedTuple):
    """How a method is to sample; see Sampler."""

    steps: int
    eta: float
    clip: bool
    sigma_max: float | None = None
    sigma_min: float | None = None


class Ancestral:
    """Each step a draw from p, of the chain that visits these steps alone."""

    def __init__(self, facts: Diffusion, timesteps: Tensor, clip: bool) -> None:
        self.schedule, self.variance, self.clip = respaced(Schedule(facts), timesteps.flip(0)), facts.variance, clip
        self.timesteps, self.draws = timesteps, len(timesteps)
        # The network sees the step of training, the tables the step of the chain.
        own = torch.arange(len(timesteps)).flip(0).split(1)
        self.own = dict(zip(timesteps.tolist(), own, strict=True))

    def begin(self, device: torch.device) -> Ancestral:
        _move(self, device)
        return self

    def step(self, t: Tensor, output: Tensor, x: Tensor, noise: Tensor) -> Tensor:
        return p_sample(self.schedule, self.variance, output, x, self.own[int(t)], noise, self.clip)


class Ddim:
    """diffusers' step goes back by the whole number T // steps, which misses the next one where that is rounded. So it
    gets the chain of visited steps alone, over which it goes back by 1.
    """

    def __init__(self, facts: Diffusion, timesteps: Tensor, eta: float, clip: bool) -> None:
        self.eta, self.variance, steps = eta, facts.variance, len(timesteps)
        names = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
        options = {"prediction_type": names[facts.prediction], "clip_sample": clip}
        whole = diffusers.DDIMScheduler(facts.steps, trained_betas=Schedule(facts).betas.float().numpy())
        self.timesteps, self.draws = timesteps, steps if eta > 0 else 0
        self.scheduler = diffusers.DDIMScheduler(steps, **options)
        self.scheduler.alphas_cumprod = whole.alphas_cumprod[timesteps.flip(0)]
        self.scheduler.set_timesteps(steps)
        self.own = dict(zip(timesteps.tolist(), range(steps - 1, -1, -1), strict=True))

    def begin(self, device: torch.device) -> Ddim:
        return self  # its coefficients are numbers to a GPU

    def step(self, t: Tensor, output: Tensor, x: Tensor, noise: Tensor | None) -> Tensor:
        prediction, _ = split_output(self.variance, output, x.shape[1])  # DDIM has its own variance
        return self.scheduler.step(
            prediction, self.own[int(t)], x, eta=self.eta, use_clipped_model_output=True, variance_noise=noise
        ).prev_sample


class Multistep:
    """A solver in x_0 over the half log SNR."""

    draws = 0

    def __init__(self, facts: Diffusion, timesteps: Tensor, scheduler: Callable, clip: bool) -> None:
        self.schedule, self.variance, self.clip = Schedule(facts), facts.variance, clip
        # x_0 and sigma are of our tables: theirs, in fp32, are off by 1e-4 at the first steps.
        self.scheduler = scheduler(facts.steps, solver_order=2, prediction_type="sample")
        self.scheduler.alphas_cumprod = self.schedule.alpha_bar.numpy()  # they make an array of it, with a warning
        self.scheduler.set_timesteps(len(timesteps))
        self.timesteps = self.scheduler.timesteps = timesteps
        sigmas = self.schedule.snr[timesteps].rsqrt()
        self.scheduler.sigmas = torch.cat([sigmas, sigmas.new_zeros(1)]).float()
        self.scheduler.set_begin_index(0)
        self.own = dict(zip(timesteps.tolist(), timesteps.split(1), strict=True))

    def begin(self, device: torch.device) -> Multistep:
        _move(self, device)
        own = copy.copy(self)
        own.scheduler = copy.deepcopy(self.scheduler)
        return own

    def step(self, t: Tensor, output: Tensor, x: Tensor, noise: Tensor | None) -> Tensor:
        return self.scheduler.step(self._clean(t, output, x), t, x).prev_sample

    def _clean(self, t: Tensor, output: Tensor, x: Tensor) -> Tensor:
        prediction, _ = split_output(self.variance, output, x.shape[1])
        x_0 = predict_xstart(self.schedule, x, self.own[int(t)], prediction)
        return x_0.clamp(-1, 1) if self.clip else x_0


class StochasticMultistep(Multistep):
    """The same for the reverse diffusion."""

    def __init__(self, facts: Diffusion, timesteps: Tensor, clip: bool) -> None:
        super().__init__(
            facts, timesteps, partial(diffusers.DPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++"), clip
        )
        self.draws = len(timesteps)

    def step(self, t: Tensor, output: Tensor, x: Tensor, noise: Tensor | None) -> Tensor:
        return self.scheduler.step(self._clean(t, output, x), t, x, variance_noise=noise).prev_sample


def _move(method: Ancestral | Multistep, device: torch.device) -> None:
    """Its tables to the device, once, so that no step has to bring them there."""
    if next(iter(method.own.values())).device != device:
        method.schedule = method.schedule.to(device)
        method.own = {t: place.to(device) for t, place in method.own.items()}


def ddpm(facts: Diffusion, options: Options) -> Ancestral:
    """Evenly spaced from step 0 on: where `steps` divides T the official code's 0, k, 2k, .., k = T / steps."""
    steps = options.steps
    return Ancestral(facts, torch.arange(steps).flip(0) * _reached(facts, options) // steps, options.clip)


def ddim(facts: Diffusion, options: Options) -> Ddim:
    return Ddim(facts, trailing_timesteps(_reached(facts, options), options.steps), options.eta, options.clip)


def dpm_solver(facts: Diffusion, options: Options) -> Multistep:
    return Multistep(facts, _even(facts, options), diffusers.DPMSolverMultistepScheduler, options.clip)


def sde_dpm_solver(facts: Diffusion, options: Options) -> StochasticMultistep:
    return StochasticMultistep(facts, _even(facts, options), options.clip)


def unipc(facts: Diffusion, options: Options) -> Multistep:
    return Multistep(facts, _even(facts, options), diffusers.UniPCMultistepScheduler, options.clip)


def _even(facts: Diffusion, options: Options) -> Tensor:
    return log_snr_timesteps(Schedule(facts), options.steps, options.sigma_max, options.sigma_min)


def _reached(facts: Diffusion, options: Options) -> int:
    """How many of the first steps of training a chain covers: those up to `sigma_max`, at least `steps`."""
    if options.sigma_max is None:
        return facts.steps
    return max(options.steps, int((noise_levels(Schedule(facts)) <= options.sigma_max).sum()))


METHODS = {
    "ddpm": ddpm,
    "ddim": ddim,
    "dpm-solver++": dpm_solver,
    "sde-dpm-solver++": sde_dpm_solver,
    "unipc": unipc,
}


class Chain:
    """One batch on its way from noise to x_0. `x` (B, C, H, W) is where it is."""

    def __init__(self, sampler: Sampler, noise: Tensor) -> None:
        self.method, self.noise, self.done = sampler.method.begin(noise.device), noise, 0
        self.bounded, self.signal = sampler.bounded, sampler.signal
        # Not strided like the noise of all steps: a compiled network would have one graph for the first step alone.
        self.x = noise[:, 0].contiguous()

    @property
    def input(self) -> Tensor:
        """What the network sees of `x` (vidm.diffusion.gaussian.network_input)."""
        return self.x if self.signal is None else self.signal[self.done] * self.x

    def step(self, output: Tensor) -> None:
        """One step on, with what the network says at the chain's present timestep."""
        draw = self.noise[:, 1 + self.done] if self.method.draws else None
        # A copy: a solver keeps it, and a network's CUDA graph writes its next output to the same place.
        output = output.to(torch.float32, copy=True)
        self.x = self.method.step(self.method.timesteps[self.done], output, self.x, draw)
        self.done += 1

    @property
    def clean(self) -> Tensor:
        """x_0 (B, C, H, W) after the last step; in [-1, 1] where the sampler is bounded."""
        return self.x.clamp(-1, 1) if self.bounded else self.x


class Sampler:
    """A method by its name; `timesteps` (steps,) int64, descending, are those of training it visits.

    sigma_max: the noise level (noise over signal) to begin at; None: the schedule's last, of the solvers in log SNR at
    most SIGMA_MAX. sigma_min: that of the last evaluation, of these solvers alone; None: the schedule's first.
    bounded: x_0 lies in [-1, 1], as a picture does; only then `clip` clips the predicted one.
    Raises ValueError if it is to take more steps than the diffusion has, or none.
    """

    def __init__(
        self,
        facts: Diffusion,
        name: str,
        steps: int,
        eta: float,
        clip: bool,
        sigma_max: float | None = None,
        sigma_min: float | None = None,
        bounded: bool = True,
    ) -> None:
        if not 0 < steps <= facts.steps:
            raise ValueError(f"steps: {steps} is not within 1..{facts.steps}, the diffusion's steps")
        self.bounded = bounded
        self.method = METHODS[name](facts, Options(steps, eta, clip and bounded, sigma_max, sigma_min))
        self.timesteps, self.draws = self.method.timesteps, self.method.draws
        # Numbers, for which no device has to be waited.
        self.signal = Schedule(facts).sqrt_alpha_bar[self.timesteps].tolist() if facts.scaled_input else None

    def start(self, noise: Tensor) -> Chain:
        """A chain to be stepped by hand, where several batches share what holds for one timestep."""
        return Chain(self, noise)

    def __call__(self, predict: Callable[[Tensor, Tensor], Tensor], noise: Tensor) -> Tensor:
        chain = self.start(noise)
        for t in self.timesteps.to(noise.device).split(1):
            chain.step(predict(chain.input, t))
        return chain.clean
