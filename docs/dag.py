"""Draw docs/dag.svg, the rules that make results/sky_fvd.json: python docs/dag.py (from the project's root)

Nodes and edges are Snakemake's own rule graph; below a rule stands what it writes. Rules stand in the column of their
longest way from a source; an edge over several columns gets a place in each of them, so that it crosses no box.
"""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Line

from vidm.files import replacing
from vidm.plotting import STYLE

TARGET = "results/sky_fvd.json"
OUT = Path(__file__).with_name("dag.svg")
WIDTH, HEIGHT, COLUMN, ROW = 2.15, 0.5, 2.7, 0.85  # inches


def said(*options: str) -> str:
    """What snakemake prints of the target."""
    command = [str(Path(sys.executable).parent / "snakemake"), *options, TARGET]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def graph() -> list[tuple[str, str]]:
    """Pairs (rule, rule that reads its output), sorted."""
    text = said("--rulegraph", "mermaid-js")
    names = dict(re.findall(r"^\s*(id\d+)\[(.*)\]$", text, flags=re.MULTILINE))
    return sorted((names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", text))


def outputs() -> dict[str, str]:
    """The first file of each rule; of several jobs what their names share."""
    found: dict[str, list[str]] = {}
    for rule, text in re.findall(
        r"^rule (\w+):$(.*?)^\s*log:", said("-n", "--forceall"), flags=re.MULTILINE | re.DOTALL
    ):
        found.setdefault(rule, []).append(re.search(r"output: ([^,\s]+)", text)[1])
    return {rule: files[0] if len({*files}) == 1 else shared(files[0]) for rule, files in found.items()}


def shared(file: str) -> str:
    """What the files of several jobs have in common, by one of them."""
    path = Path(file)
    return str(path.with_name(f"*{path.suffix}"))


def places(edges: list[tuple[str, str]]) -> tuple[dict, dict]:
    """(column, row) of each rule, and the rows of each edge in the columns between its ends."""
    column = dict.fromkeys(sorted({name for edge in edges for name in edge}), 0)
    for _ in column:
        for a, b in edges:
            column[b] = max(column[b], column[a] + 1)
    for a in column:  # a source stands just before its first reader
        if all(b != a for _, b in edges):
            column[a] = min(column[b] for x, b in edges if x == a) - 1
    chains = [[a, *((a, b, c) for c in range(column[a] + 1, column[b])), b] for a, b in edges]
    where = {node: column[node] if isinstance(node, str) else node[2] for chain in chains for node in chain}
    columns = [sorted((n for n in where if where[n] == c), key=str) for c in range(max(where.values()) + 1)]
    row = {node: k - (len(nodes) - 1) / 2 for nodes in columns for k, node in enumerate(nodes)}
    links = [link for chain in chains for link in pairwise(chain)]
    for sweep in range(8):
        for nodes in columns if sweep % 2 else reversed(columns):
            near = {n: [row[b if a == n else a] for a, b in links if n in (a, b)] for n in nodes}
            nodes.sort(key=lambda n: sum(near[n]) / len(near[n]))
            row |= {node: k - (len(nodes) - 1) / 2 for k, node in enumerate(nodes)}
    return {n: (where[n], row[n]) for n in column}, {(c[0], c[-1]): [(where[n], row[n]) for n in c] for c in chains}


def draw(out: Path) -> None:
    edges, files = graph(), outputs()
    rules, lines = places(edges)
    across = max(c for c, _ in rules.values()) + 1
    rows = [r for line in lines.values() for _, r in line]
    size = (across * COLUMN - COLUMN + WIDTH + 0.2, (max(rows) - min(rows)) * ROW + HEIGHT + 0.2)
    figure = plt.figure(figsize=size)
    axes = figure.add_axes(
        (0, 0, 1, 1),
        xlim=(-0.1, size[0] - 0.1),
        ylim=(max(rows) * ROW + HEIGHT / 2 + 0.1, min(rows) * ROW - HEIGHT / 2 - 0.1),
    )
    axes.axis("off")
    for (a, b), line in lines.items():
        points, codes = [], []
        for k, ((c1, r1), (c2, r2)) in enumerate(pairwise(line)):
            start, end = (c1 * COLUMN + WIDTH, r1 * ROW), (c2 * COLUMN, r2 * ROW)
            middle = (start[0] + end[0]) / 2
            points += [start, (middle, start[1]), (middle, end[1]), end]
            codes += [Line.MOVETO if k == 0 else Line.LINETO, Line.CURVE4, Line.CURVE4, Line.CURVE4]
        axes.add_patch(PathPatch(Line(points, codes), fill=False, color="#777777", linewidth=1.2, gid=f"{a}--{b}"))
        axes.plot(points[-1][0] - 0.05, points[-1][1], marker=(3, 0, -90), color="#777777", markersize=6, clip_on=False)
    for name, (c, r) in rules.items():
        x, y = c * COLUMN, r * ROW
        axes.add_patch(
            FancyBboxPatch(
                (x, y - HEIGHT / 2),
                WIDTH,
                HEIGHT,
                "round,pad=0,rounding_size=0.08",
                facecolor="#E8F1F8",
                edgecolor="#0072B2",
                zorder=2,
            )
        )
        axes.text(x + WIDTH / 2, y - 0.09, name, ha="center", va="center", fontsize=10, fontweight="bold", zorder=3)
        axes.text(x + WIDTH / 2, y + 0.11, files[name], ha="center", va="center", fontsize=6.5, zorder=3)
    with replacing(out) as temporary:
        figure.savefig(temporary, format="svg", facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    with plt.rc_context(
        STYLE | {"figure.constrained_layout.use": False, "savefig.bbox": None, "font.family": "sans-serif"}
    ):
        draw(OUT)
