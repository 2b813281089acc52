"""`vidm train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidm import devices
from vidm.cli.options import PARAMS, RUNS, Experiment, Frames, Params, Runs, Weights

app = typer.Typer(help="Train the content or the motion network.", no_args_is_help=True)


@app.command(epilog="Example: vidm train content sky --frames data/frames/sky.h5 --out models/sky/content.safetensors")
def content(experiment: Experiment, frames: Frames, out: Weights, runs: Runs = RUNS, params: Params = PARAMS):
    """Train the content network: one frame from noise."""
    from vidm import config

    facts = config.load(params)
    devices.take(facts.experiment(experiment).running.gpus)
    from vidm.training import content

    content.train(facts, experiment, frames, out, runs)


@app.command(
    epilog="Example: vidm train motion sky --frames data/frames/sky.h5 "
    "--spynet data/weights/spynet-procedural.safetensors --out models/sky/motion.safetensors"
)
def motion(
    experiment: Experiment,
    frames: Frames,
    out: Weights,
    spynet: Annotated[Path | None, typer.Option(help="pretrained SpyNet; default: what the experiment names")] = None,
    runs: Runs = RUNS,
    params: Params = PARAMS,
):
    """Train the motion network: frame n from frames 0 and n-1."""
    from vidm import config

    facts = config.load(params)
    devices.take(facts.experiment(experiment).running.gpus)
    from vidm.training import motion

    motion.train(facts, experiment, frames, out, runs, spynet=spynet)


@app.command(epilog="Example: vidm train spynet --minutes 60 --out models/spynet.safetensors")
def spynet(
    out: Annotated[Path, typer.Option(help="weights file to write, in half precision")],
    minutes: Annotated[
        float, typer.Option(min=0.01, help="of processor time, on a GPU of the clock; the schedule fills them")
    ] = 60.0,
    scenes: Annotated[int, typer.Option(min=1, help="of the embedded sky to train on")] = 384,
    pixels: Annotated[int, typer.Option(min=1, help="of a batch")] = 16384,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    runs: Runs = RUNS,
):
    """Train a SpyNet on procedural motion: textures and the embedded sky, whose flow is known; no one's videos.

    Stopped, the same command goes on; with fewer minutes, it comes to its end. Another seed, other scenes or pixels
    are another run.
    """
    devices.take()
    from vidm.training import flow

    print(flow.train(flow.Plan(minutes, scenes, pixels, seed), out, runs))
