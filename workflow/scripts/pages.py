"""Pages for `make report`, each a file that needs no other: an experiment's videos, numbers and facts; the tables.

pages.py experiment NAME FOLDER --facts JSON --fvd FILE --runs FILE FILE --videos FILE ...
pages.py tables OUT CSV ...
"""

import argparse
import csv
import html
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from page import inline, write

from vidm.metrics import summary

VIDEOS = """
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem }
main figure { margin: 0 }
video { width: 100%; aspect-ratio: 1; image-rendering: pixelated; background: #ddd }
"""
BENCHMARKS = Path("logs/benchmarks")
OF_FRAMES = ("render", "extract")  # steps of a data set


def table(header: Iterable[str], rows: Iterable[Iterable[Any]], caption: str = "") -> str:
    """Numbers to the right; `None` is a dash."""

    def cell(value: Any) -> str:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return f'<td class="number">{value if isinstance(value, int) else f"{value:.2f}"}</td>'
        return f"<td>{html.escape('-' if value is None else str(value))}</td>"

    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "\n".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    said = f"<p>{html.escape(caption)}</p>" if caption else ""
    return f"{said}<table>\n<tr>{head}</tr>\n{body}\n</table>"


def read(path: str) -> dict[str, Any]:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def clock(seconds: float | None) -> str | None:
    """Hours, minutes, seconds; a dash for what a training did not note."""
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


# The pages


def videos(experiment: str, files: list[Path], out: Path) -> None:
    shown = [
        f'<figure><video controls autoplay loop muted playsinline src="{inline(path, "video/mp4")}"></video>'
        f"<figcaption>{path.stem.removeprefix('video_').lstrip('0') or '0'}</figcaption></figure>"
        for path in files
    ]
    write(out, f"Videos of experiment {experiment}", ["<main>", *shown, "</main>"], VIDEOS)


def distances(report: dict[str, Any]) -> Iterable[str]:
    """One protocol: the distance, what it can be read against, and what to mind."""
    p = report["protocol"]
    rows = [("samples", report["fvd"], summary.trust(report))]
    rows += summary.beside(report)
    caption = f"{report['n']} videos each, {p['frames']} frames, stride {p['stride']}"
    yield f"<h2>Protocol {html.escape(p['name'])}</h2>"
    yield table(("", "FVD", ""), rows, caption)
    said = [*summary.further(report), *(f"Note: {text}." for text in report.get("warnings", []))]
    yield f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in said)}</ul>"


def numbers(experiment: str, report: dict[str, Any], runs: dict[str, dict], out: Path) -> None:
    parts = [line for one in [report, *report.get("also", [])] for line in distances(one)]
    rows = [
        (part, run["step"], run["samples"], run["loss"], clock(run["wall_seconds"]), run["device_hours"], run["device"])
        for part, run in runs.items()
    ]
    header = ("network", "steps", "samples", "last loss", "wall time", "device hours", "device")
    write(out, f"Numbers of experiment {experiment}", [*parts, "<h2>Training</h2>", table(header, rows)])


def times(experiment: str, dataset: str, folder: Path = BENCHMARKS) -> list[tuple[str, str, float | None]]:
    """(step, wall time, MB of memory) of the steps of an experiment that left a benchmark, longest first.

    Those of its frames have the data set's name, which may be another experiment's, too.
    """
    paths = {p.parent.name: p for p in folder.glob(f"*/{experiment}.tsv") if p.parent.name not in OF_FRAMES}
    paths |= {p.parent.name: p for rule in OF_FRAMES for p in folder.glob(f"{rule}/{dataset}.tsv")}
    paths |= {f"shard {p.stem}": p for p in folder.glob(f"shard/{experiment}/*.tsv")}
    found = []
    for step, path in paths.items():
        with path.open(encoding="utf-8", newline="") as file:
            row = next(csv.DictReader(file, delimiter="\t"))
        memory = float(row["max_rss"]) if row["max_rss"] not in ("NA", "-") else None
        found.append((float(row["s"]), step, memory))
    return [(step, clock(seconds), memory) for seconds, step, memory in sorted(found, reverse=True)]


def facts(experiment: str, said: dict[str, Any], report: dict[str, Any], out: Path) -> None:
    own = said["experiment"]
    hashes = [("data", f"{report['data']['source']}, {report['data']['clips']} clips", report["data"]["sha256"])]
    hashes += [("detector", report["detector"]["name"], report["detector"]["sha256"])]
    hashes += [(part, f"step {c['step']}, EMA {c['ema']}", c["sha256"]) for part, c in report["checkpoints"].items()]
    parts = ["<h2>What it was made from</h2>", table(("", "", "sha256"), hashes)]
    beyond = report.get("beyond_the_paper", [])
    parts += ["<h2>Beyond the paper</h2>", f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in beyond)}</ul>"]
    parts += ["<h2>Versions</h2>", table(("", ""), report["versions"].items())]
    spent = times(experiment, own["dataset"])
    parts += ["<h2>Run times</h2>", table(("step", "wall time", "memory, MB"), spent, "The last run of each step.")]
    parts += ["<h2>Parameters</h2>", "<p>Presets are merged, defaults filled in.</p>"]
    parts += [f"<pre>{html.escape(yaml.safe_dump(said, sort_keys=False, default_flow_style=None))}</pre>"]
    write(out, f"Facts of experiment {experiment}", parts)


def tables(sheets: list[Path], out: Path) -> None:
    parts = []
    for path in sheets:
        title = path.with_suffix(".md").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        parts += [f"<h2>{html.escape(title)}</h2>", table(header, rows)]
    said = "An empty cell of ours was not measured under the same conditions."
    write(out, "The paper's tables", [f"<p>{said}</p>", *parts], "body { max-width: none; font-size: 0.85rem }")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    one = kinds.add_parser("experiment")
    one.add_argument("name")
    one.add_argument("folder", type=Path)
    one.add_argument("--facts", type=json.loads, required=True, help="JSON: experiment, dataset, model_version")
    one.add_argument("--fvd", type=read, required=True, help="its report")
    one.add_argument("--runs", type=read, nargs=2, required=True, help="content_run.json, motion_run.json")
    one.add_argument("--videos", type=Path, nargs="+", required=True, help="mp4 files")
    all_of_them = kinds.add_parser("tables")
    all_of_them.add_argument("out", type=Path)
    all_of_them.add_argument("sheets", type=Path, nargs="+", help="table_*.csv, their .md beside them")
    a = parser.parse_args()
    if a.kind == "tables":
        tables(a.sheets, a.out)
        return
    videos(a.name, a.videos, a.folder / "videos.html")
    numbers(a.name, a.fvd, dict(zip(("content", "motion"), a.runs, strict=True)), a.folder / "numbers.html")
    facts(a.name, a.facts, a.fvd, a.folder / "facts.html")


if __name__ == "__main__":
    main()
