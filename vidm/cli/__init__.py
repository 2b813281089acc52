"""The command line: parses, calls, prints. No logic lives here."""

from __future__ import annotations

import os
import sys

import typer

from vidm import devices
from vidm.cli import data, measure, sample, tools, train, weights
from vidm.errors import InputError, Interrupted

app = typer.Typer(
    name="vidm",
    help="Video Implicit Diffusion Models: videos in, trained models, samples and an FVD out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.add_typer(weights.app, name="weights")
app.add_typer(train.app, name="train")
app.add_typer(tools.model_app, name="model")
app.add_typer(sample.app)
app.add_typer(measure.app)
app.add_typer(tools.app)


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
