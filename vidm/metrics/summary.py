"""Reports of FVDs for people: one as text, two side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vidm.errors import InputError

MEANING = {
    "floor": "test clips",
    "static": "test clips, first frame repeated",
    "self_static": "samples, first frame repeated",
    "noise": "uniform noise",
}


def summary(report: dict[str, Any]) -> str:
    """A report as a small table: the value, what it can be read against, what it was made of, the warnings."""
    name = report.get("experiment", "fake")
    rows = [("", "FVD", ""), (name, _number(report["fvd"]), "")]
    rows += [(k, _number(v), MEANING.get(k, "")) for k, v in report.get("baselines", {}).items()]
    lines = _table(rows, left=(0, 2))
    if "motion" in report:
        lines.append(
            "motion: samples {samples:.2f}, test clips {test:.2f} grey levels a frame".format(**report["motion"])
        )
    p, data = report["protocol"], report["data"]
    lines += [
        f"protocol {p['name']}: {report['n']} videos each, {p['frames']} frames, stride {p['stride']}",
        f"data: {data['source']}, sha256 {data['sha256'][:12]}, {data['dropped']} files dropped",
    ]
    lines += [f"note: {text}" for text in report.get("warnings", [])]
    for other in report.get("also", []):
        lines += ["", summary(other)]
    return "\n".join(lines)


def compare(a: Path, b: Path) -> str:
    """Two reports side by side.

    Raises InputError where protocol, n, detector or data differ: such numbers can't be compared.
    """
    reports = [_read(Path(a)), _read(Path(b))]
    left, right = (dict(_same_in_both(r)) for r in reports)
    for key in sorted({*left, *right}):
        if left.get(key) != right.get(key):
            raise InputError(
                f"{a} and {b} can't be compared: {key} is {_shown(left.get(key))} and {_shown(right.get(key))}"
            )
    names = [r.get("experiment", Path(p).stem) for r, p in zip(reports, (a, b), strict=True)]
    values = [dict(_values(r)) for r in reports]
    rows = [("", *names)]
    for key in dict.fromkeys([*values[0], *values[1]]):
        rows.append((key, *(_number(v[key]) if key in v else "-" for v in values)))
    return "\n".join(_table(rows))


def _same_in_both(report: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What two comparable reports agree in."""
    for key, value in report["protocol"].items():
        yield f"protocol.{key}", value
    yield "n", report["n"]
    yield "detector.sha256", report["detector"]["sha256"]
    yield "data.sha256", report["data"]["sha256"]


def _values(report: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "fvd", report["fvd"]
    for group in ("baselines", "motion"):
        for key, value in report.get(group, {}).items():
            yield f"{group}.{key}", value
    for part, facts in report.get("checkpoints", {}).items():
        yield f"{part} steps", facts["step"]
    for key in ("sampler", "steps", "eta", "precision"):
        if key in report.get("sampling", {}):
            yield f"sampling.{key}", report["sampling"][key]


def _read(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        dict(_same_in_both(report)), dict(_values(report))
        return report
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: not a report of vidm evaluate or vidm fvd --json") from None


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _table(rows: list[tuple[str, ...]], left: tuple[int, ...] = (0,)) -> list[str]:
    """Rows as lines of even columns, numbers to the right; the columns in `left` to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
