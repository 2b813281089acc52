"""`vidm fvd`, and reports: what is measured, compared and put into tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidm import devices
from vidm.cli.options import PARAMS, Experiment, Frames, Params

app = typer.Typer()


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
    given: Annotated[
        Path | None, typer.Option(help="samples.h5 of vidm sample --first FRAMES, for motion_only: motion by itself")
    ] = None,
    params: Params = PARAMS,
):
    """An experiment's report: FVD by its protocols, baselines, motion, leak check, provenance."""
    devices.take()
    from vidm import config
    from vidm.metrics import report

    facts = config.load(params)
    print(report.evaluate(facts, experiment, frames, samples, out, detector, inception, nearest, given))


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
