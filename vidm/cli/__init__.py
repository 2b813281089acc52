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


# Typer has a click of its own, by its version: this is the base of what either raises for wrong usage.
UsageError = typer.BadParameter.__base__


def main() -> None:
    # --cores may exceed the machine; libraries that read this at import must not oversubscribe it.
    os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")
    try:
        sys.exit(app(prog_name="vidm", standalone_mode=False))
    except UsageError as error:
        _say(error)
        sys.exit(2)
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


def _say(error: UsageError) -> None:
    """Wrong usage on one line; of a group alone, its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return
    command = error.ctx.command_path if error.ctx else "vidm"
    said = " ".join(error.format_message().split()).rstrip(".")
    print(f"{command}: {said}; see {command} --help", file=sys.stderr)
