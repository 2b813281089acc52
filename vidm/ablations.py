"""Ablations: rows of switches, each trained and measured over several seeds.

In params.yaml, of an experiment:

    ablations:
      sky:
        preset: ablation
        seeds: [0, 1, 2]
        tables: {3a: {vanilla: [vanilla-content], default: []}, 3b: {without PosGN: [without-posgn], default: []}}

A cell is a row with one seed. It is an experiment like any other, with a name made of its presets and its seed, so
that rows that switch the same are the same cell. Within a seed a cell trains only the networks that no cell before it
has: the rows of content share one motion network, the rows of motion one content network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vidm import faults
from vidm.faults import ConfigError

Seed = Annotated[int, Field(ge=0)]
Rows = Annotated[dict[str, tuple[str, ...]], Field(min_length=1)]


@dataclass(frozen=True)
class Cell:
    """A row with one seed; name: of its experiment. Where several rows are the same, the first of them."""

    name: str
    table: str
    row: str
    presets: tuple[str, ...]
    seed: int


class Ablation(BaseModel):
    """Which rows an experiment's ablation tables have, and the seeds of each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str | tuple[str, ...] = Field((), description="over the experiment's own keys: what a cell may cost")
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = Field(description="each trains and samples a cell anew")
    tables: Annotated[dict[str, Rows], Field(min_length=1)] = Field(
        description="of each table its rows: the presets that a row adds, none of them for the row without a switch"
    )

    @model_validator(mode="after")
    def _each_seed_once(self) -> Ablation:
        faults.each_once("seeds", self.seeds)
        return self

    @property
    def reference(self) -> dict[str, str]:
        """Of each table that has one, the row without a switch."""
        plain = {table: [row for row, presets in rows.items() if not presets] for table, rows in self.tables.items()}
        return {table: rows[0] for table, rows in plain.items() if rows}

    def cells(self, experiment: str) -> dict[str, dict[str, tuple[str, ...]]]:
        """{table: {row: the experiments of its cells, seed by seed}}."""
        return {
            table: {
                row: tuple(_name(experiment, presets, seed) for seed in self.seeds) for row, presets in rows.items()
            }
            for table, rows in self.tables.items()
        }

    def each(self, experiment: str) -> list[Cell]:
        """Every cell once, seed by seed, within a seed those with fewer switches first."""
        rows = [(table, row, presets) for table, rows in self.tables.items() for row, presets in rows.items()]
        found: dict[str, Cell] = {}
        for seed in self.seeds:
            for table, row, presets in sorted(rows, key=lambda r: len(r[2])):
                name = _name(experiment, presets, seed)
                found.setdefault(name, Cell(name, table, row, presets, seed))
        return list(found.values())


def listed(preset: str | tuple[str, ...]) -> tuple[str, ...]:
    return (preset,) if isinstance(preset, str) else tuple(preset)


def _name(experiment: str, presets: tuple[str, ...], seed: int) -> str:
    switches = re.sub(r"[^a-z0-9]+", "-", "-".join(presets).lower()).strip("-") or "default"
    return f"{experiment}-ablation-{switches}-s{seed}"


def known(name: str, ablations: Mapping[str, Ablation]) -> Ablation:
    """Raises ConfigError where an experiment has no ablations."""
    if name in ablations:
        return ablations[name]
    raise ConfigError(f"experiment '{name}' has no ablations in params.yaml{faults.nearest(name, ablations)}")
