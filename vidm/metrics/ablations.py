"""The ablations of an experiment: one file of the reports of all cells, and its tables for people.

    {experiment, n, seeds, tables: {table: {row: {metric: [a value a seed]}}}, cells: {table: {row: [experiments]}},
     reference: {table: row without a switch}, floor: {metric: value}, protocols: {metric: {n, ...}}, data, detector,
     training: {content, motion: steps}, warnings}

A metric is `fvd16`, `fvd32`, ... by the frames of its protocol, `fid`, or `inception_score`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vidm.config import Params
from vidm.errors import InputError
from vidm.files import replacing
from vidm.metrics import provenance
from vidm.metrics.compare import differences
from vidm.metrics.statistics import of_report, spread

Values = dict[str, dict[str, dict[str, list[float]]]]


def gather(params: Params, experiment: str, results: Path, out: Path, partial: bool = False) -> str:
    """Write `out` from the reports results/{cell}_fvd.json of all cells; returns the tables as text.

    partial: of the seeds alone whose cells are all there. Raises InputError where a report is missing, is not of its
    cell, or is of other data, n, detector or protocols than the first one.
    """
    ablation = params.ablation(experiment)
    cells, paths, missing = ablation.cells(experiment), {}, {}
    for cell in ablation.each(experiment):
        paths[cell.name] = path = results / f"{cell.name}_fvd.json"
        if not path.is_file():
            missing.setdefault(cell.seed, path)
    seeds = [seed for seed in ablation.seeds if seed not in missing]
    if missing and not (partial and seeds):
        path, made = next(iter(missing.values())), f"results/{experiment}_ablations.json"
        hint = "" if partial or not seeds else f"; --partial takes the seeds that are whole: {seeds}"
        raise InputError(f"{path}: no such file; make all: snakemake --cores all {made}{hint}")
    taken = [ablation.seeds.index(seed) for seed in seeds]
    cells = {t: {row: [names[k] for k in taken] for row, names in rows.items()} for t, rows in cells.items()}
    reports = {name: _read(paths[name], name) for rows in cells.values() for names in rows.values() for name in names}
    first = next(iter(reports.values()))
    for name, report in reports.items():
        _alike(paths[first["experiment"]], first, paths[name], report)
    found = {
        "experiment": experiment,
        "n": first["n"],
        "seeds": seeds,
        "tables": {
            t: {row: _values([reports[n] for n in names]) for row, names in r.items()} for t, r in cells.items()
        },
        "cells": cells,
        "reference": ablation.reference,
        "floor": {key: part["baselines"]["floor"] for key, part in _parts(first) if "floor" in part["baselines"]},
        "protocols": {key: {"n": part["n"], **part["protocol"]} for key, part in _parts(first)},
        "data": first["data"],
        "detector": first["detector"],
        "training": {part: facts["step"] for part, facts in first["checkpoints"].items()},
        "sampling": {key: first["sampling"].get(key) for key in ("sampler", "steps", "frames", "time_grid")},
        # How a row looks over time is its own; a warning of all rows is one of the table.
        "warnings": [text for text in _warnings(first) if all(text in _warnings(r) for r in reports.values())],
    }
    provenance.write(out, found)
    return "\n".join(_markdown(found))


def render(path: Path, out: Path) -> str:
    """Write out/{experiment}_ablations.md and .csv from the file of `gather`; returns what was written.

    No published number stands in them: the paper's are of other data, other sizes and longer training.
    """
    found = _whole(path)
    name = f"{found['experiment']}_ablations"
    _write(out / f"{name}.md", "\n".join(_markdown(found)) + "\n")
    sheet = io.StringIO()
    head = ("table", "row", "metric", "mean", "std", "minus reference, mean", "minus reference, std")
    csv.writer(sheet, lineterminator="\n").writerows(
        [(*head, *(f"seed {seed}" for seed in found["seeds"])), *_rows(found)]
    )
    _write(out / f"{name}.csv", sheet.getvalue())
    return f"{out}: {name} (.md, .csv)"


def metrics_of(rows: dict[str, dict[str, list[float]]]) -> list[str]:
    """The metrics that any row of a table has."""
    return list(dict.fromkeys(metric for row in rows.values() for metric in row))


def differences_of(found: dict[str, Any], table: str, row: str, metric: str) -> list[float] | None:
    """A row's values minus those of the row without a switch, seed by seed: what both share cancels.

    None for that row itself, and where either was not measured.
    """
    rows, plain = found["tables"][table], found.get("reference", {}).get(table)
    if plain is None or row == plain or metric not in rows[row] or metric not in rows.get(plain, {}):
        return None
    return [a - b for a, b in zip(rows[row][metric], rows[plain][metric], strict=True)]


def _rows(found: dict[str, Any]) -> Iterator[tuple]:
    for table, rows in found["tables"].items():
        for row, metrics in rows.items():
            for metric, values in metrics.items():
                gap = differences_of(found, table, row, metric)
                gaps = [""] * 2 if gap is None else [spread(gap)[key] for key in ("mean", "std")]
                own = spread(values)
                yield (table, row, metric, own["mean"], own["std"], *gaps, *values)


def _markdown(found: dict[str, Any]) -> list[str]:
    data, seeds = found["data"], found["seeds"]
    where = "the embedded sky" if data["source"] == "procedural" else f"{data['id']}, {data['source']} videos"
    steps = ", ".join(f"{part} {count}" for part, count in found["training"].items())
    lines = [
        f"# Ablations of {found['experiment']}, measured here",
        "",
        f"On {where} at {data.get('resolution')} pixels; {found['n']} videos a cell; steps of training: {steps}; "
        f"seeds {', '.join(map(str, seeds))}.",
        "Mean and standard deviation over seeds. In brackets: minus the row without a switch, seed by seed.",
        "FVD and FID: lower is better. These numbers do not compare with the paper's.",
        "",
    ]
    for table, rows in found["tables"].items():
        metrics = metrics_of(rows)
        lines += [f"## {table}", "", _line(["", *metrics]), _line(["---"] * (1 + len(metrics)))]
        for row in rows:
            lines.append(_line([row, *(cell_text(found, table, row, metric) for metric in metrics)]))
        floor = [found["floor"].get(metric) for metric in metrics]
        if any(value is not None for value in floor):
            lines.append(_line(["floor: real clips held out", *("" if v is None else f"{v:.1f}" for v in floor)]))
        lines.append("")
    return [*lines, *(f"- {text}" for text in found["warnings"])]


def cell_text(found: dict[str, Any], table: str, row: str, metric: str) -> str:
    """`mean ± deviation (difference ± deviation)`; "" of what was not measured. One seed has no deviation."""
    values = found["tables"][table][row].get(metric)
    if not values:
        return ""
    gap = differences_of(found, table, row, metric)
    return _spread(values) + (f" ({_spread(gap, '+')})" if gap else "")


def _spread(values: list[float], sign: str = "") -> str:
    text = f"{np.mean(values):{sign}.1f}"
    return text + (f" ± {spread(values)['std']:.1f}" if len(values) > 1 else "")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _parts(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(metric, part) of each protocol; where two have as many frames, the second also has its name."""
    found: dict[str, dict] = {}
    for part in (report, *report["also"]):
        key = f"fvd{part['protocol']['frames']}"
        found[f"{key} {part['protocol']['name']}" if key in found else key] = part
    return list(found.items())


def _warnings(report: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(text for _, part in _parts(report) for text in part["warnings"]))


def _values(reports: list[dict[str, Any]]) -> dict[str, list[float]]:
    """The metrics of a row, a value for each report."""
    found = {key: [dict(_parts(r))[key]["fvd"] for r in reports] for key, _ in _parts(reports[0])}
    for key in ("fid", "inception_score"):
        if all(key in r for r in reports):
            found[key] = [of_report(r, key)[0] for r in reports]
    return found


def _alike(a: Path, first: dict[str, Any], b: Path, report: dict[str, Any]) -> None:
    ours, theirs = dict(_parts(first)), dict(_parts(report))
    unlike = [f"protocols are {', '.join(ours)} and {', '.join(theirs)}"] if ours.keys() != theirs.keys() else []
    unlike += [text for key in ours if key in theirs for text in differences(ours[key], theirs[key])]
    if unlike:
        raise InputError(f"{a} and {b} can't stand in one table: {'; '.join(dict.fromkeys(unlike))}; make both again")


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["experiment"] != name:
            raise InputError(f"{path}: is a report of experiment '{report['experiment']}'; make it again")
        for _, part in _parts(report):
            part["fvd"], part["n"], part["baselines"], part["warnings"], part["checkpoints"], part["sampling"]
            differences(part, part)
        return report
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: not a report of vidm evaluate; make it again") from None


def _whole(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        list(_rows(found)), _markdown(found)
        return found
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; make it: snakemake --cores all {path}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: not a file of vidm ablations; make it again") from None


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
