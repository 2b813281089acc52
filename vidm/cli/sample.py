"""`vidm sample`, and what is done with samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidm import devices
from vidm.cli.options import PARAMS, RUNS, Experiment, Params, Runs, TimeGrid
from vidm.errors import InputError

app = typer.Typer()


@app.command(epilog="Example: vidm sample --pretrained sky --out skies.mp4")
def sample(
    out: Annotated[
        Path, typer.Option(help="folder for samples.h5, mp4s and the contact sheet; or one .mp4, .gif or .webp")
    ],
    experiment: Annotated[
        str | None, typer.Argument(help="a key of experiments: in params.yaml; not with --pretrained")
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(help="networks with their own facts: `sky`, of this package, or a folder of `vidm weights pack`"),
    ] = None,
    motion: Annotated[Path | None, typer.Option(help="trained motion network")] = None,
    content: Annotated[Path | None, typer.Option(help="trained content network; not used with first frames")] = None,
    first: Annotated[Path | None, typer.Option(help="first frames: a folder of images, or a store's clips")] = None,
    further: Annotated[Path | None, typer.Option("--continue", help="a store whose clips go on")] = None,
    motions: Annotated[int, typer.Option(min=1, help="videos of each first frame, with their own motion")] = 1,
    videos: Annotated[int | None, typer.Option(min=1, help="how many; default: the experiment's")] = None,
    most: Annotated[int | None, typer.Option(min=1, help="so many, or fewer where first frames give fewer")] = None,
    frames: Annotated[int | None, typer.Option(min=2, help="of each video; default: the experiment's")] = None,
    time_grid: Annotated[
        TimeGrid | None, typer.Option(help="frames beyond the trained grid: like its last, or the grid spread over all")
    ] = None,
    cls: Annotated[str | None, typer.Option("--class", help="one class for all videos; default: drawn")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="pixels; default: the networks' own")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="default: the experiment's")] = None,
    shard: Annotated[str, typer.Option(help="K/N: the K-th of N parts of the videos, for vidm gather")] = "",
    cache_gb: Annotated[
        float | None, typer.Option(min=0, help="memory for residual features; default: a quarter of what is free")
    ] = None,
    benchmark: Annotated[bool, typer.Option("--benchmark", help="print where the time went")] = False,
    runs: Runs = RUNS,
    params: Params = PARAMS,
):
    """Generate videos: Algorithm 2, each video from its own seed. A killed run goes on at its next group of videos.

    Of an experiment, its networks are named: --content models/sky/content.safetensors --motion
    models/sky/motion.safetensors. A moving picture shows all videos of the call, by default 8, or fewer where first
    frames give fewer.
    """
    devices.take()
    from vidm import config
    from vidm.models import pretrained as shipped
    from vidm.sampling import picture, plan, run

    moving = picture.moves(out)
    facts = None
    if pretrained is not None:
        if experiment or motion or content:
            raise InputError(f"--pretrained {pretrained}: has its own experiment and networks; give no others")
        found = shipped.find(pretrained)
        facts, experiment = found.params, found.experiment
        motion, content = found.path("motion"), None if first or further else found.path("content")
    if experiment is None or motion is None:
        raise InputError("give an experiment and its --motion network, or --pretrained sky")
    if moving and shard:
        raise InputError(f"{out}: a shard is no moving picture; give a folder")
    wish = plan.Wish(
        videos=videos,
        most=most or (picture.VIDEOS if moving else None),
        seed=seed,
        frames=frames,
        beyond=time_grid.value if time_grid else None,
        first=first,
        further=further,
        motions=motions,
        cls=cls,
        size=size,
        shard=plan.shard_of(shard),
    )
    facts = facts or config.load(params)

    def make(folder: Path, kept: Path) -> None:
        run.sample(facts, experiment, content, motion, folder, wish, cache_gb, benchmark, kept)

    if moving:
        print(picture.picture(out, make))
    else:
        make(out, runs)


@app.command(epilog="Example: vidm gather sky results/sky/shards/*.h5 --out results/sky/samples")
def gather(
    experiment: Experiment,
    shards: Annotated[list[Path], typer.Argument(help="every file of vidm sample --shard")],
    out: Annotated[Path, typer.Option(help="folder for samples.h5, mp4s and the contact sheet")],
    runs: Runs = RUNS,
    params: Params = PARAMS,
):
    """Join the shards of a sampling run into one samples.h5, and draw its pictures."""
    from vidm import config
    from vidm.sampling import run

    run.gather(config.load(params), experiment, shards, out, runs)


@app.command(epilog="Example: vidm export results/sky/samples/samples.h5 --out sky.png --beside data/frames/sky.h5")
def export(
    store: Annotated[Path, typer.Argument(help="samples.h5, or any frame store")],
    out: Annotated[Path, typer.Option(help=".mp4, .gif or .webp: a moving grid; .png: a filmstrip")],
    videos: Annotated[
        str | None, typer.Option(help="numbers in the file, such as 0-3,7; default: the first 8, or all of fewer")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="of a filmstrip: every k-th frame")] = 4,
    beside: Annotated[Path | None, typer.Option(help="a store of real videos to set against them")] = None,
    columns: Annotated[int, typer.Option(min=1, help="of a moving grid")] = 4,
    side: Annotated[int, typer.Option(min=1, help="small frames are enlarged to about this, pixels")] = 96,
):
    """Some videos of a store as one picture for people."""
    from vidm.sampling import show

    print(show.export(store, out, None if videos is None else show.numbers(videos), every, beside, columns, side))
