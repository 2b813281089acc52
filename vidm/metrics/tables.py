"""The paper's Tables 1, 2, 3a and 3b, with what was measured here beside the published numbers.

A published cell is a fact of the paper (Mei & Patel, AAAI 2023). A cell of ours is filled from a report only where it
is the same quantity: real videos at that resolution, windows of that many frames, the protocol's full count, in full
precision, and samples that the experiment's own networks made from noise. All else leaves the cell empty and is listed
with its reason: above all, numbers on the embedded sky never stand beside a paper's.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidm.errors import InputError
from vidm.files import replacing
from vidm.metrics.statistics import of_report
from vidm.protocols import PROTOCOLS

FVD16, FVD128 = ("vidm-paper", "styleganv"), ("styleganv-128",)
OURS = "measured here"
LONG = "-long"  # the twin of an experiment that samples 128 frames with its networks


@dataclass(frozen=True)
class Cell:
    """Where a measured number of a row or column comes from: a report's field, by one of these protocols."""

    experiment: str
    protocols: tuple[str, ...] = FVD16
    metric: str = "fvd"
    frames: int = 16
    resolution: int = 256


@dataclass(frozen=True)
class Table:
    """`rows`: the cells of the paper, "" where it has none, then where ours comes from, one cell for each of `ours`."""

    name: str
    title: str
    columns: tuple[str, ...]
    ours: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[Cell | None, ...]], ...]
    note: str = ""


def _fvd(experiment: str, frames: int, resolution: int = 256) -> tuple[Cell]:
    known = {16: FVD16, 128: FVD128}.get(frames, ())
    return (Cell(experiment, known, "fvd", frames, resolution),)


def _row(text: str) -> tuple[str, ...]:
    return tuple("" if cell == "-" else cell.replace("_", " ") for cell in text.split())


TABLE_1 = Table(
    "table_1",
    "Table 1: FVD, lower is better",
    (
        *("set", "frames", "MoCoGAN (StyleGAN2)", "MoCoGAN-HD", "VideoGPT"),
        *("DIGAN", "DIGAN, by class", "StyleGAN-V", "TATS", "VIDM"),
    ),
    (f"VIDM, {OURS}",),
    (
        (_row("256-UCF101 16 1821.4 1729.6 2880.6 1630.2 471.9 1431.0 332 294.7"), _fvd("ucf256", 16)),
        (_row("256-UCF101 128 2311.3 2606.5 - 2293.7 - 1773.4 - 1531.9"), _fvd("ucf256", 128)),
        (_row("256-SkyTimelapse 16 85.9 164.1 222.7 83.1 83.1 79.5 132 57.4"), _fvd("sky256", 16)),
        (_row("256-SkyTimelapse 128 272.8 878.1 - 196.7 196.7 197.0 - 140.9"), _fvd("sky256", 128)),
        (_row("256-CLEVRER 16 - - - 112.5 - 106.1 - 87.4"), _fvd("clevrer256", 16)),
        (_row("256-CLEVRER 128 - - - 531.7 - 493.3 - 426.5"), _fvd("clevrer256", 128)),
        (_row("128-TaiChi 16 - - - 128.1 - 143.5 - 121.9"), _fvd("taichi128", 16, 128)),
        (_row("128-TaiChi 128 - - - 748.0 - 691.1 - 563.6"), _fvd("taichi128", 128, 128)),
    ),
)


def _ucf(experiment: str) -> tuple[Cell, Cell]:
    return (
        Cell(experiment, FVD16, "inception_score", 16, 128),
        Cell(experiment, FVD16, "fvd", 16, 128),
    )


_NONE = (None, None)
TABLE_2 = Table(
    "table_2",
    "Table 2: 128-UCF101, 16 frames; IS, higher is better, and FVD, lower is better",
    ("split", "method", "IS", "FVD"),
    (f"IS, {OURS}", f"FVD, {OURS}"),
    (
        (_row("train VGAN 8.31±.09 -"), _NONE),
        (_row("train TGAN 11.85±.07 -"), _NONE),
        (_row("train MoCoGAN 12.42±.07 -"), _NONE),
        (_row("train ProgressiveVGAN 14.56±.05 -"), _NONE),
        (_row("train LDVD-GAN 22.91±.19 -"), _NONE),
        (_row("train VideoGPT 24.69±.30 -"), _NONE),
        (_row("train TGANv2 28.87±.67 1209±28"), _NONE),
        (_row("train DIGAN 29.71±.53 655±22"), _NONE),
        (_row("train VIDM 53.34 306"), _ucf("ucf128-class")),
        (_row("train VIDM,_without_class 35.20 471"), _ucf("ucf128")),
        (_row("train+test DVD-GAN 27.38±.53 -"), _NONE),
        (_row("train+test MoCoGAN-HD 32.36 838"), _NONE),
        (_row("train+test DIGAN 32.70±.35 577±21"), _NONE),
        (_row("train+test StyleGAN-V 32.70±.35 -"), _NONE),
        (_row("train+test DIGAN,_by_class 59.68±.45 -"), _NONE),
        (_row("train+test VDM 57±.62 295±3"), _NONE),
        (_row("train+test VIDM,_without_class 64.17 263"), _NONE),
    ),
    "The paper heads the second row of numbers FID; its caption, and DIGAN's own table, say FVD. Which of the two VIDM "
    "columns has classes is not certain in the text either. Nothing here trains on train and test together, so those "
    "rows have no cell of ours. An IS of ours counts only by the C3D of the published ones; the report names the file.",
)


def _content(experiment: str) -> tuple[Cell, ...]:
    return tuple(Cell(experiment, FVD16, metric) for metric in ("fid", "inception_score", "fvd"))


TABLE_3A = Table(
    "table_3a",
    "Table 3a: content ablation on CLEVRER",
    ("content", "FID", "IS", "FVD, 16 frames"),
    (f"FID, {OURS}", f"IS, {OURS}", f"FVD, 16 frames, {OURS}"),
    (
        (_row("vanilla 23.0 3.04 115.4"), _content("clevrer256-vanilla-content")),
        (_row("without_truncation 21.1 3.07 107.9"), _content("clevrer256-without-truncation")),
        (_row("without_robustness_penalty 19.4 3.07 95.5"), _content("clevrer256-without-robustness")),
        (_row("default 18.4 3.07 87.4"), _content("clevrer256")),
    ),
)


def _motion(experiment: str) -> tuple[Cell, ...]:
    return tuple(_fvd(experiment, frames)[0] for frames in (16, 64, 128))


TABLE_3B = Table(
    "table_3b",
    "Table 3b: motion ablation on CLEVRER, FVD",
    ("motion", "16 frames", "64 frames", "128 frames"),
    tuple(f"{frames} frames, {OURS}" for frames in (16, 64, 128)),
    (
        (_row("vanilla 603.7 610.0 648.7"), _motion("clevrer256-vanilla-motion")),
        (_row("without_PosGN 532.1 581.3 604.5"), _motion("clevrer256-without-posgn")),
        (_row("without_implicit_condition 584.8 552.1 614.1"), _motion("clevrer256-without-implicit")),
        (_row("default 87.4 286.6 426.5"), _motion("clevrer256")),
    ),
    "FVD of 64 frames counts by a protocol of params.yaml that is like styleganv with frames: 64.",
)
TABLES = (TABLE_1, TABLE_2, TABLE_3A, TABLE_3B)


def render(results: Path, out: Path) -> str:
    """Write every table as Markdown and CSV into `out`, from the reports {experiment}_fvd.json in `results`.

    Returns what was written, and which reports stand in no cell and why. Without a report, the published numbers stand
    alone. Raises InputError for a broken report, or where there is no such folder.
    """
    if not results.is_dir():
        raise InputError(f"{results}: no such folder; give that of the reports, {{experiment}}_fvd.json")
    reports = {path.name.removesuffix("_fvd.json"): _read(path) for path in sorted(results.glob("*_fvd.json"))}
    used, reasons = set(), {}
    for table in TABLES:
        rows = [(cells, [_ours(cell, reports, used, reasons) for cell in ours]) for cells, ours in table.rows]
        header = [*table.columns, *table.ours]
        whole = [[*cells, *ours] for cells, ours in rows]
        text = [f"# {table.title}", "", *_markdown(header, whole), ""]
        text += [table.note, ""] if table.note else []
        text += ["An empty cell of ours was not measured under the same conditions.", ""]
        _write(out / f"{table.name}.md", "\n".join(text))
        sheet = io.StringIO()
        csv.writer(sheet, lineterminator="\n").writerows([header, *whole])
        _write(out / f"{table.name}.csv", sheet.getvalue())
    said = [f"{out}: {', '.join(t.name for t in TABLES)} (.md, .csv); {len(used)} of our cells filled"]
    if not reports:
        said.append(f"{results}: no report in it, {{experiment}}_fvd.json; the published numbers stand alone")
    for name, report in reports.items():
        if not any(cell[0] == name for cell in used):
            said.append(f"{name}: in no table; {reasons.get(name) or _apart(report)}")
    return "\n".join(said)


def _ours(cell: Cell | None, reports: dict[str, dict], used: set, reasons: dict[str, str]) -> str:
    """The measured number of a cell, or "" where none is the same quantity."""
    for name in () if cell is None else (cell.experiment, f"{cell.experiment}{LONG}"):
        faults = []
        for part in _parts(reports[name]) if name in reports else ():
            fault = unlike(cell, part)
            if not fault:
                used.add((name, cell.metric, cell.frames))
                return _number(part, cell.metric)
            faults.append(fault)
        if faults:
            reasons.setdefault(name, faults[0])
    return ""


def unlike(cell: Cell, report: dict[str, Any]) -> str:
    """Why a report's number is not what the paper's cell holds, or ""."""
    p, data = report["protocol"], report["data"]
    if data["source"] != "raw":
        return f"measured on {data['source']} videos"
    if data.get("resolution") != cell.resolution:
        return f"at {data.get('resolution')} pixels, the paper's are {cell.resolution}"
    if p["frames"] != cell.frames or p["stride"] != 1 or p["split"] != "train":
        return f"{p['frames']} frames at stride {p['stride']} of the {p['split']} split"
    other = [key for key, value in USUAL.items() if p.get(key, value) != value]
    if other or (cell.protocols and p["name"] not in cell.protocols):
        return f"by protocol {p['name']}" + (f" (other {', '.join(other)})" if other else "")
    sampling = report.get("sampling", {})
    if sampling.get("size", cell.resolution) != cell.resolution:
        return f"samples of {sampling['size']} pixels"
    for key, fault in FAULTS.items():
        if key in sampling:
            return fault
    if report["n"] != 2048:
        return f"{report['n']} videos, the paper's are 2048"
    if report["detector"].get("precision", "fp32") != "fp32":
        return "not in full precision"
    if cell.metric not in report:
        return f"no {cell.metric} in its report"
    return ""


USUAL = {key: value for key, value in PROTOCOLS["styleganv"].facts().items() if key not in ("name", "frames")}
# What `vidm sample` was asked for, and notes in its store.
FAULTS = {
    "given": "samples begin with given frames",
    "class": "samples of one class",
    "motions": "samples share their first frames",
    "networks_unlike_params": "samples of other networks than params.yaml has",
}


def _parts(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield report
    yield from report.get("also", [])


def _number(report: dict[str, Any], metric: str) -> str:
    value, deviation = of_report(report, metric)
    if metric == "inception_score":
        return f"{value:.2f}±{report[metric]['std'] if deviation is None else deviation:.2f}"
    return f"{value:.1f}" + ("" if deviation is None else f"±{deviation:.1f}")


def _apart(report: dict[str, Any]) -> str:
    if report["data"]["source"] != "raw":
        return f"measured on {report['data']['source']} videos"
    return "no row of the paper is this experiment"


def _markdown(header: list[str], rows: list[list[str]]) -> list[str]:
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    return [line(header), line(["---"] * len(header)), *map(line, rows)]


def _read(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        for part in _parts(report):
            part["data"]["source"], part["n"], part["detector"]
            part["protocol"] = {"split": "train", **part["protocol"]}
        return report
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: not a report of vidm evaluate; make it again, or move it away") from None


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
