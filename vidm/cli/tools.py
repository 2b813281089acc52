"""What is beside the pipeline: networks in numbers, GPUs, the schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidm import devices
from vidm.cli.options import PARAMS, Params

app = typer.Typer()
model_app = typer.Typer(help="Look at the networks.", no_args_is_help=True)


@model_app.command(epilog="Example: vidm model summary sky256")
def summary(
    experiments: Annotated[
        list[str] | None, typer.Argument(help="keys of experiments:; default: a line for each")
    ] = None,
    params: Params = PARAMS,
):
    """Parameters and GFLOPs of an experiment's networks, part by part."""
    from vidm import config
    from vidm.data.store import class_count
    from vidm.models.summary import describe

    facts = config.load(params)

    def classes(dataset: str) -> int:
        return class_count(Path(f"data/frames/{dataset}.h5"), facts.dataset(dataset).layout)

    print(describe(facts, experiments or facts.experiments, classes))


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
    from vidm.files import replacing

    text = json.dumps(config.schema(), indent=2) + "\n"
    if out:
        with replacing(out) as temporary:
            temporary.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
