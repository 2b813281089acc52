"""A report for people, as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vidm.metrics import over_time
from vidm.metrics.statistics import of_report

MEANING = {
    "floor": "{held}",
    "static": "{held}, first frame repeated",
    "shuffled": "{held}, frames in another order",
    "self_static": "samples{first}, first frame repeated",
    "noise": "uniform noise",
}


def summary(report: dict[str, Any]) -> str:
    """A report as a small table: the value, what it can be read against, what it was made of, the warnings."""
    name = report.get("experiment", "fake")
    rows = [("", "FVD", ""), (name, number(report["fvd"]), trust(report))]
    rows += [(key, number(value), said) for key, value, said in beside(report)]
    lines = columns(rows, left=(0, 2))
    lines += further(report)
    p, data = report["protocol"], report["data"]
    lines += [
        f"protocol {p['name']}: {report['n']} videos each, {p['frames']} frames, stride {p['stride']}",
        f"data: {data['source']}, sha256 {data['sha256'][:12]}, {data['dropped']} files dropped",
    ]
    lines += [f"note: {text}" for text in report.get("warnings", [])]
    for other in report.get("also", []):
        lines += ["", summary(other)]
    return "\n".join(lines)


def beside(report: dict[str, Any]) -> Iterator[tuple[str, float, str]]:
    """(name, FVD, what it is of) of all that the value can be read against."""
    said = meaning(report)
    for name, value in report.get("baselines", {}).items():
        yield name, value, said.get(name, "")
    if "motion_only" in report:
        apart = report["motion_only"]
        yield "motion_only", apart["fvd"], f"{apart['n']} videos that begin with real first frames"
        yield "motion_only.static", apart["static"], "those first frames, repeated"
        yield "motion_only.floor", apart["floor"], "the test clips of those first frames"


def meaning(report: dict[str, Any]) -> dict[str, str]:
    """What each baseline is. A report of before it named the split that was held out has that of test."""
    split = report.get("held_out", "test") if "experiment" in report else None
    held = f"{split} clips" if split else "real videos held out"
    return {name: text.format(held=held, first=_first(report)) for name, text in MEANING.items()}


def trust(report: dict[str, Any]) -> str:
    """Beside the value: its standard error, and the spread over trials; of a mean over seeds theirs."""
    said = []
    if report.get("interval") and not report.get("seeds"):
        said.append(f"standard error {number(report['interval']['standard_error'])}")
    for key in ("trials", "seeds"):
        several = report.get(key) or {}
        if len(several.get("values", [])) > 1:
            whose = _first(report) if key == "trials" else ""
            said.append(f"{number(several['std'])} over {len(several['values'])} {key}{whose}")
    return ", ".join(said)


def _first(report: dict[str, Any]) -> str:
    """Behind what is of the first seed, where there are several."""
    return " of the first seed" if report.get("seeds") else ""


def _value(report: dict[str, Any], metric: str) -> str:
    value, deviation = of_report(report, metric)
    return number(value) + ("" if deviation is None else f" +- {number(deviation)}")


def further(report: dict[str, Any]) -> Iterator[str]:
    motion = report.get("motion", {})
    others = "test clips" if "experiment" in report else "real videos held out"
    if "test" in motion:
        yield f"motion: samples {_value(report, 'motion')}, {others} {motion['test']:.2f} grey levels a frame"
    for begin, found in changes(report):
        frame, ends = over_time.last(found)
        ratios = ", ".join(f"{kind} {number(ratio)}" for kind, ratio in ends.items())
        yield f"{begin}frame {frame} over that of {others}: {ratios}"
    curve = report.get("against_n")
    if curve:
        points = ", ".join(f"{n}: {number(v)}" for n, v in zip(curve["n"], curve["fvd"], strict=True))
        doubt = "" if curve["linear"] else " (not to be trusted at so few)"
        yield f"FVD against N{_first(report)}: {points}; without end {number(curve['extrapolated'])}{doubt}"
    if "kvd" in report:
        floor = f", floor {report['kvd_floor']:.2f}" if "kvd_floor" in report else ""
        yield f"KVD {_value(report, 'kvd')}{floor}"
    if "fid" in report:
        fid, kid = report["fid"], report["kid"]
        floor = f", floor {number(fid['floor'])}" if "floor" in fid else ""
        of_kid = f"KID{_first(report)} {kid['mean']:.4f} +- {kid['std']:.4f}"
        yield f"FID {_value(report, 'fid')}{floor}; {of_kid}; {fid['frames']} frames"
    if "inception_score" in report:
        score = report["inception_score"]
        mean, deviation = of_report(report, "inception_score")
        deviation = score["std"] if deviation is None else deviation
        yield (
            f"Inception score {mean:.2f} +- {deviation:.2f}, real {score['real']:.2f}, by "
            f"{score['classifier']['file']} (sha256 {score['classifier']['sha256'][:12]})"
        )
    near = report.get("nearest")
    if near:
        ratios = [s["ratio"] for s in near["samples"] if s["ratio"] is not None]
        least = f", at least {min(ratios):.2f} times a test clip's median" if ratios else ""
        yield f"nearest of {near['among']} training clips to {len(near['samples'])} samples{_first(report)}{least}"
    if "fast" in report:
        yield f"fast: bf16, logits {100 * report['fast']['relative_error_of_logits']:.2f} % off"


def changes(report: dict[str, Any]) -> Iterator[tuple[str, over_time.Ratios]]:
    """The `over_time` of a report, and that of its `motion_only`, each with the words before it."""
    if "over_time" in report:
        yield "", report["over_time"]
    if "motion_only" in report:
        yield "real first frames given, ", report["motion_only"]["over_time"]


def number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def columns(rows: list[tuple[str, ...]], left: tuple[int, ...] = (0,)) -> list[str]:
    """Rows as lines of even columns, numbers to the right; the columns in `left` to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
