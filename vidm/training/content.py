"""Content training, Eq. 4: one random frame, one random step, the Charbonnier penalty on the network's error."""

from __future__ import annotations

import functools
from pathlib import Path

from torch import Tensor, nn

from vidm.config import Diffusion, Params
from vidm.data.clips import FrameDraw
from vidm.diffusion.gaussian import network_input, q_sample
from vidm.diffusion.losses import training_loss
from vidm.diffusion.schedule import Schedule
from vidm.training.loop import Batch
from vidm.training.run import levels_of, train_part


def content_loss(facts: Diffusion, schedule: Schedule, classed: bool = False):
    """loss(network, batch); batch: frame and noise (B, 3, S, S), t (B,), cls (B,)."""
    on = functools.cache(schedule.to)  # a copy to a GPU in each step would wait for the network

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        x_0, t, eps = batch["frame"], batch["t"], batch["noise"]
        tables = on(t.device)
        x_t = q_sample(tables, x_0, t, eps)
        y = network(network_input(tables, x_t, t), t, batch["cls"] if classed else None)
        return training_loss(facts, tables, y, x_0, x_t, t, eps)

    return loss


def train(params: Params, experiment: str, frames: Path, out: Path, runs: Path = Path("runs")) -> None:
    """Train the content network of an experiment on a frame store; write `out` and its loss curve.

    `runs`: folder of checkpoints, from which the same call goes on.

    Raises InputError where the store does not fit the experiment.
    """
    e = params.experiment(experiment)
    diffusion = e.content.diffusion

    def draw(store):
        return FrameDraw(store, levels=levels_of(diffusion), flip=e.content.training.flip, seed=e.seed)

    loss = content_loss(diffusion, Schedule(diffusion), e.class_conditioning)
    train_part(params, e, "content", frames, out, runs, draw, loss)
