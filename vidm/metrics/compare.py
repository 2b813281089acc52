"""Two reports side by side, where they may be compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vidm.errors import InputError
from vidm.metrics import over_time
from vidm.metrics.statistics import METRICS, of_report
from vidm.metrics.summary import changes, columns, number


def compare(a: Path, b: Path, force: bool = False) -> str:
    """Two reports side by side.

    Raises InputError where protocol, n, detector or data differ: such numbers can't be compared. It names every field
    that does. force: compares them none the less, and says so first.
    """
    reports = [_read(Path(a)), _read(Path(b))]
    unlike = differences(*reports)
    if unlike and not force:
        raise InputError(f"{a} and {b} can't be compared: {'; '.join(unlike)}. Look at both with --force")
    names = [r.get("experiment", Path(p).stem) for r, p in zip(reports, (a, b), strict=True)]
    values = [dict(_values(r)) for r in reports]
    rows = [("", *names)]
    for key in dict.fromkeys([*values[0], *values[1]]):
        rows.append((key, *(number(v[key]) if key in v else "-" for v in values)))
    warning = ["WARNING: these numbers can't be compared, since they differ in:", *(f"  {d}" for d in unlike), ""]
    return "\n".join([*(warning if unlike else []), *columns(rows)])


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """`field is x and y` for each field that two comparable reports agree in."""
    left, right = dict(_same_in_both(a)), dict(_same_in_both(b))
    keys = sorted({*left, *right})
    return [f"{k} is {_shown(left.get(k))} and {_shown(right.get(k))}" for k in keys if left.get(k) != right.get(k)]


def _same_in_both(report: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What two comparable reports agree in."""
    for key, value in report["protocol"].items():
        yield f"protocol.{key}", value
    yield "n", report["n"]
    yield "detector.sha256", report["detector"]["sha256"]
    yield "detector.precision", report["detector"].get("precision", "fp32")
    for key in ("sha256", "size", "fps"):
        yield f"data.{key}", report["data"].get(key)


def _values(report: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "fvd", report["fvd"]
    interval = report.get("interval") or {}
    if interval and not report.get("seeds"):
        yield "fvd standard error", interval["standard_error"]
    if report.get("seeds") or report["protocol"].get("trials", 1) > 1:
        yield "fvd standard deviation", (report.get("seeds") or report["trials"])["std"]
    means = {metric: of_report(report, metric)[0] for metric in METRICS if metric in report}
    yield from ((key, means.get(key, report[key])) for key in ("kvd", "kvd_floor") if key in report)
    for group in ("baselines", "motion"):
        for key, value in report.get(group, {}).items():
            yield f"{group}.{key}", means["motion"] if key == "samples" else value
    for key in ("n", "fvd", "static", "floor") if "motion_only" in report else ():
        yield f"motion_only.{key}", report["motion_only"][key]
    for begin, found in changes(report):
        frame, ends = over_time.last(found)
        yield from ((f"{begin}{kind} of frame {frame}", ratio) for kind, ratio in ends.items())
    for group in ("fid", "kid", "inception_score"):
        if group in report:
            yield group, means[group] if group in means else report[group]["mean"]
    for part, facts in report.get("checkpoints", {}).items():
        yield f"{part} steps", facts["step"]
    for key in ("sampler", "content_sampler", "steps", "eta", "precision"):
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
    return text if len(text) <= 60 else f"{text[:12]}..."
