"""Motion training, Algorithm 1: frames 0, n-1 and n of one clip, one random step, the Charbonnier penalty.

Conditioning augmentation (Ho et al., 2022), a switch beyond the paper: x(n-1) + s U(0, 1) noise for n > 1. In training
x(n-1) is real, in generation it is generated; the noise teaches the network to live with the difference.
"""

from __future__ import annotations

import functools
from pathlib import Path

from torch import Tensor, nn

from vidm import weights
from vidm.config import SPYNETS, Motion, Params
from vidm.data.clips import TripletDraw
from vidm.diffusion.gaussian import q_sample
from vidm.diffusion.losses import training_loss
from vidm.diffusion.schedule import Schedule
from vidm.errors import InputError
from vidm.training.loop import Batch
from vidm.training.run import train_part


def augmented(previous: Tensor, n: Tensor, level: Tensor, noise: Tensor, strength: float) -> Tensor:
    """x(n-1) with noise of a random level; frame 0 itself (n = 1) stays. Images (B, 3, S, S), n and level (B,)."""
    amount = strength * level * (n > 1)
    return previous + amount[:, None, None, None] * noise


def motion_loss(facts: Motion, schedule: Schedule, classed: bool = False):
    """loss(network, batch); batch: first, previous, target and two noises (B, 3, S, S); t, n, level, cls (B,)."""
    on = functools.cache(schedule.to)  # a copy to a GPU in each step would wait for the network

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        x_0, t, n, eps = batch["target"], batch["t"], batch["n"], batch["noise"]
        previous, tables = batch["previous"], on(t.device)
        if facts.conditioning_noise:
            previous = augmented(previous, n, batch["level"], batch["previous_noise"], facts.conditioning_noise)
        x_t = q_sample(tables, x_0, t, eps)
        y = network(x_t, t, n, batch["first"], previous, batch["cls"] if classed else None)
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
    if e.motion.implicit and e.motion.spynet != "none":
        name = SPYNETS.get(e.motion.spynet)
        if spynet is None and name is None:
            spynet = Path(e.motion.spynet)
        pretrained, source = weights.load(name or "spynet", spynet)
        about = {"spynet_sha256": source["sha256"]}

    def draw(store):
        return TripletDraw(store, frames=e.frames, steps=diffusion.steps, flip=e.motion.training.flip, seed=e.seed)

    def start(network) -> None:
        if pretrained is not None:
            try:
                network.spynet.load_pretrained(pretrained)
            except (ValueError, RuntimeError, AttributeError) as error:
                reason = " ".join(str(error).split())[:160]
                raise InputError(f"{spynet}: not the weights of a six-level SpyNet ({reason})") from None

    loss = motion_loss(e.motion, Schedule(diffusion), e.class_conditioning)
    train_part(params, e, "motion", frames, out, runs, draw, loss, start=start, **about)
