"""Motion training, Algorithm 1: frames 0, n-1 and n of one clip, one random step, the Charbonnier penalty.

In training x(n-1) is real, in generation it is generated. Two switches beyond the paper teach the network to live with
the difference:

conditioning_noise   x(n-1) + s U(0, 1) noise for n > 1 (Ho et al., 2022, conditioning augmentation); with
                     conditioning_level the network is told the level
own_outputs          x(n-d) .. x(n-1) of some items are what the network makes of the frames before, in a few steps and
                     without gradients; the target is the real frame n, so that it learns to lead its errors back
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vidm import weights
from vidm.config import SPYNETS, Motion, Params
from vidm.data.clips import Own, TripletDraw
from vidm.diffusion.gaussian import network_input, q_sample
from vidm.diffusion.losses import training_loss
from vidm.diffusion.samplers import Sampler
from vidm.diffusion.schedule import Schedule
from vidm.errors import InputError
from vidm.training.loop import Batch
from vidm.training.own import own_outputs
from vidm.training.run import levels_of, train_part

SCALE_CLIPS = 128  # windows that the scale of a difference is measured on


def motion_loss(facts: Motion, schedule: Schedule, classed: bool = False):
    """loss(network, batch); batch: what TripletDraw draws, see vidm.data.clips."""
    on = functools.cache(schedule.to)  # a copy to a GPU in each step would wait for the network
    own = facts.own_outputs
    steps = min(own.steps, facts.diffusion.steps)
    sampler = Sampler(
        facts.diffusion, "dpm-solver++", steps, 0.0, True, own.sigma_max, own.sigma_min, facts.target == "frame"
    )

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        t, n, eps = batch["t"], batch["n"], batch["noise"]
        label, tables = batch["cls"] if classed else None, on(t.device)
        plain = getattr(network, "module", network)  # of several processes: what is made needs no gradients of theirs
        frames = [batch["previous"], *(batch["history"].unbind(1) if "history" in batch else ())]
        level = facts.conditioning_noise * batch["level"] * (n > 1)
        if own.share:
            frames = own_outputs(plain, sampler, batch, label)
            level = level * (batch["depth"] == 0)  # they bring their own errors
        previous, code = frames[0], None
        if facts.conditioning_noise:
            previous = previous + level[:, None, None, None] * batch["previous_noise"]
        x_0 = batch["target"]
        if facts.target != "frame" or facts.conditioning_level:
            gap = (n - 1).clamp(max=plain.back)
            back = torch.stack(frames)[gap, torch.arange(len(n), device=n.device)] if plain.back else previous
            given = plain.conditions(batch["first"], previous, n, back, gap, level)
            x_0, code = given.diffused(x_0), given.code
        x_t = q_sample(tables, x_0, t, eps)
        y = network(network_input(tables, x_t, t), t, n, batch["first"], previous, label, code)
        return training_loss(facts.diffusion, tables, y, x_0, x_t, t, eps)

    return loss


def train(
    params: Params, experiment: str, frames: Path, out: Path, runs: Path = Path("runs"), spynet: Path | None = None
) -> None:
    """Train the motion network of an experiment on a frame store; write `out` and its loss curve.

    `runs`: folder of checkpoints, from which the same call goes on.
    `spynet`: pretrained weights as `vidm weights fetch` makes them, or a port's file; where it is None, the file that
    the experiment names, or the fetched one.
    Raises InputError where the store or the weights do not fit the experiment.
    """
    e = params.experiment(experiment)
    diffusion, about = e.motion.diffusion, {}
    pretrained = None
    if e.motion.sees_flow and e.motion.spynet != "none":
        name = SPYNETS.get(e.motion.spynet)
        if spynet is None and name is None:
            spynet = Path(e.motion.spynet)
        pretrained, source = weights.load(name or "spynet", spynet)
        about = {"spynet_sha256": source["sha256"]}

    motion, training = e.motion, e.motion.training
    own = None
    if motion.own_outputs.share:
        own = Own(motion.own_outputs.share, round(motion.own_outputs.start * training.steps), motion.own_outputs.frames)

    def draw(store):
        back = motion.velocity_frames if motion.target == "warped-difference" else 0
        history = back + (own.frames if own else 0)
        drawn = {"levels": levels_of(diffusion), "first_share": motion.first_share, "history": history, "own": own}
        return TripletDraw(store, e.frames, flip=training.flip, seed=e.seed, **drawn)

    def start(network, source) -> None:
        if pretrained is not None:
            try:
                network.spynet.load_pretrained(pretrained)
            except (ValueError, RuntimeError, AttributeError) as error:
                reason = " ".join(str(error).split())[:160]
                raise InputError(f"{spynet}: not the weights of a six-level SpyNet ({reason})") from None
        if motion.target != "frame":
            clips = np.stack([source.window(k) for k in range(SCALE_CLIPS)])
            try:
                network.measure_scale(torch.from_numpy(clips))
            except ValueError:
                raise InputError(
                    f"{frames}: its train clips stand still, so that experiments.{experiment}.motion.target: "
                    f"{motion.target} has nothing to learn; use target: frame, or clips that move"
                ) from None

    loss = motion_loss(e.motion, Schedule(diffusion), e.class_conditioning)
    train_part(params, e, "motion", frames, out, runs, draw, loss, start=start, **about)
