"""Options that several commands have."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Params = Annotated[Path, typer.Option("--params", help="the facts of all experiments")]
Workers = Annotated[int, typer.Option(min=0, help="processes; 0: one per core of this machine")]
PARAMS = Path("params.yaml")
Experiment = Annotated[str, typer.Argument(help="a key of experiments: in params.yaml")]
Frames = Annotated[Path, typer.Option(help="frame store of the experiment's dataset")]
Weights = Annotated[Path, typer.Option(help="weights file to write; its loss curve goes beside it")]
Runs = Annotated[Path, typer.Option(help="folder of checkpoints; the same command goes on from them")]
RUNS = Path("runs")


class TimeGrid(StrEnum):
    clamp = "clamp"
    stretch = "stretch"
