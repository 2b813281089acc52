"""params.yaml, read and merged: an experiment is its presets, in order, and its own keys; the last one wins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vidm import faults
from vidm.ablations import Ablation, listed
from vidm.config.combinations import check, sharing
from vidm.config.facts import Document, Params
from vidm.faults import ConfigError
from vidm.protocols import PROTOCOLS, OwnProtocol, Protocol, own


def _merge(base: Mapping, over: Mapping) -> dict:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def resolve(raw: Mapping[str, Any], source: str = "params.yaml") -> Params:
    """Merge presets into experiments and check everything. `raw` is the parsed params.yaml.

    Raises ConfigError: one line with the key, the value and the nearest valid one.
    """
    try:
        return _resolve(faults.plain(raw))
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _resolve(raw: dict) -> Params:
    # As written first: a fault is named where it stands, in a preset or in an experiment. A preset alone
    # is no whole network, so what our own validators say about combinations waits for the merged one.
    try:
        Document.model_validate(raw, strict=True)
    except ValidationError as error:
        own = [f for f in error.errors() if f["type"] != "value_error" or f["loc"][0] in ("datasets", "ablations")]
        if own:
            raise ConfigError(faults.first(own, Document)) from None
    experiments = {}
    for name, written in raw["experiments"].items():
        own = dict(written)
        presets = _over({"name": name}, listed(own.pop("preset", ())), raw, f"experiments.{name}.preset")
        experiments[name] = _merge(presets, own)
    whole = {key: raw[key] for key in ("model_version", "datasets")}
    whole["protocols"] = _protocols(raw.get("protocols", {}))
    whole["ablations"] = {name: Ablation.model_validate(facts) for name, facts in raw.get("ablations", {}).items()}
    cells = _cells(whole["ablations"], experiments, raw)
    try:
        params = Params.model_validate(whole | {"experiments": experiments, "cells": cells}, strict=True)
    except ValidationError as error:
        raise ConfigError(faults.first(error.errors(), Params)) from None
    params = params.model_copy(update={"cells": sharing(params.cells)})
    for experiment in params.every.values():
        check(experiment, params)
    return params


def _over(base: dict, presets: tuple[str, ...], raw: Mapping, where: str) -> dict:
    """`base`, and presets over it, in order."""
    known = raw.get("presets", {})
    for preset in presets:
        if preset not in known:
            raise ConfigError(f"{where}: no preset '{preset}'{faults.nearest(preset, known)}")
        base = _merge(base, known[preset])
    return base


def _cells(found: Mapping[str, Ablation], experiments: Mapping[str, dict], raw: Mapping) -> dict[str, dict]:
    """An experiment for each cell of all ablations: the experiment's facts, the ablation's presets, the row's."""
    cells = {}
    for name, ablation in found.items():
        where = f"ablations.{name}"
        if name not in experiments:
            raise ConfigError(f"{where}: no experiment '{name}'{faults.nearest(name, experiments)}")
        own = {key: value for key, value in experiments[name].items() if key not in ("content_of", "motion_of")}
        base = _over(own, listed(ablation.preset), raw, f"{where}.preset")
        for cell in ablation.each(name):
            if cell.name in experiments:
                raise ConfigError(f"experiments.{cell.name}: is a cell of {where}, too; rename it")
            facts = _over(base, cell.presets, raw, f"{where}.tables.{cell.table}.{cell.row}")
            cells[cell.name] = facts | {"name": cell.name, "seed": cell.seed}
    return cells


def _protocols(written: Mapping[str, Mapping]) -> dict[str, Protocol]:
    for name in written:
        if name in PROTOCOLS:
            raise ConfigError(f"protocols.{name}: a named protocol can't be changed; nearest: '{name}-mine'")
    made = {name: own(name, OwnProtocol.model_validate(facts)) for name, facts in written.items()}
    for name, p in made.items():
        if p.low >= p.high:
            raise ConfigError(f"protocols.{name}.low: {p.low:g} is not below high = {p.high:g}; nearest: -1")
    return made


class _Loader(yaml.SafeLoader):
    """YAML where a key stands once: the plain loader keeps the last of two without a word."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise ConfigError(f"line {key.start_mark.line + 1}: key '{key.value}' stands here twice")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load(path: str | Path = "params.yaml") -> Params:
    """Read and check a params file. Raises ConfigError."""
    path = Path(path)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; run from the project's root or give --params") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, Mapping):
        raise ConfigError(
            f"{path}: {faults.shown(raw)} is not a group of keys; needs {', '.join(Document.model_fields)}"
        )
    return resolve(raw, str(path))


def schema() -> dict:
    """JSON schema of params.yaml as written: presets and experiments may leave any key out."""
    return Document.model_json_schema() | {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "params.yaml",
    }
