"""`vidm data`: videos to frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidm.cli.options import PARAMS, Params, Workers
from vidm.errors import InputError

app = typer.Typer(help="Videos to frames.", no_args_is_help=True)


@app.command(epilog="Example: vidm data render sky --out sky-videos")
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


@app.command(epilog="Example: vidm data extract data/raw/sky --dataset sky --out data/frames/sky.h5")
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


@app.command(epilog="Example: vidm data inspect data/raw/sky --dataset sky --picture sky.png")
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

    if verify and path.is_dir():
        raise InputError(f"{path}: is a folder; --verify is for a .h5 of vidm data extract")
    facts = config.load(params).dataset(dataset) if dataset else config.Dataset(raw=".", resolution=128)
    found = inspection.survey(path, facts, probe)
    print(inspection.describe(found))
    if json:
        inspection.save(found, json)
    inspection.refuse_empty(found)
    if picture:
        draw(path, facts, picture)
    if verify:
        print(inspection.verify(path))


@app.command("sources", epilog="Example: vidm data sources")
def data_sources():
    """Real footage: what vidm data fetch gets, with sizes, hashes and licences, and what has to be got by hand."""
    from vidm.data import sources

    print(sources.table())


@app.command("fetch", epilog="Example: vidm data fetch sky-preview")
def fetch_data(
    name: Annotated[str, typer.Argument(help="a name from vidm data sources")],
    file: Annotated[Path | None, typer.Option("--from", help="take this file, fetched elsewhere")] = None,
    out: Annotated[Path | None, typer.Option(help="folder to fill; default: the one of vidm data sources")] = None,
):
    """Fetch real footage, check it, and cut or unpack it into data/raw. Stopped, the same command goes on."""
    from vidm.data import fetch, sources

    print(fetch.fetch(sources.find(name), out, file))
