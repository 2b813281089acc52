"""How far a distance of N clips can be trusted: its standard error, and what it would be with more clips.

Both work on features, so they cost no pass through the detector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Distance = Callable[[np.ndarray, np.ndarray], float]
GROUPS = 10
LEVEL = 1.96  # of a normal distribution: 95 %
FRACTIONS = (0.5, 0.625, 0.75, 0.875, 1.0)
DRAWS = 3
# Where a report has each metric that `seeds` has, too, where there are several.
METRICS = {
    "fvd": lambda report: report["fvd"],
    "kvd": lambda report: report["kvd"],
    "motion": lambda report: report["motion"]["samples"],
    "fid": lambda report: report["fid"]["value"],
    "inception_score": lambda report: report["inception_score"]["mean"],
}


def jackknife(
    real: np.ndarray,
    fake: np.ndarray,
    of: Distance,
    groups: int = GROUPS,
    clips: Sequence[Sequence[int]] | None = None,
) -> dict[str, Any] | None:
    """Standard error and 95 % interval of of(real, fake), by leaving a group of one side away at a time.

        se^2 = sum over both sides of (g - 1) / g sum_j (v_j - mean v)^2

    clips: the clip that each row of real, and of fake, is a window of. Windows of one clip are alike, so they are in
    one group; without it each row is a clip. It says how the value varies with which clips were taken, at this N; not
    the bias of a small N. None below 2 groups of 2 clips.
    """
    clips = clips or [range(len(side)) for side in (real, fake)]
    orders = [{clip: k for k, clip in enumerate(dict.fromkeys(rows))} for rows in clips]
    groups = min(groups, *(len(order) // 2 for order in orders))
    if groups < 2:
        return None
    place = [np.array([order[clip] % groups for clip in rows]) for order, rows in zip(orders, clips, strict=True)]
    together = any(len(order) < len(rows) for order, rows in zip(orders, clips, strict=True))
    variance = 0.0
    for side in (0, 1):
        values = []
        for j in range(groups):
            sides = [real, fake]
            sides[side] = sides[side][place[side] != j]
            values.append(of(*sides))
        variance += (groups - 1) / groups * float(np.square(np.array(values) - np.mean(values)).sum())
    value, error = of(real, fake), float(np.sqrt(variance))
    return {
        "method": f"jackknife over {groups} groups a side" + (", windows of a clip in one" if together else ""),
        "level": 0.95,
        "standard_error": error,
        "low": value - LEVEL * error,
        "high": value + LEVEL * error,
    }


def against_n(real: np.ndarray, fake: np.ndarray, of: Distance, seed: int = 0) -> dict[str, Any] | None:
    """of() at several N below the whole, and the straight line in 1 / N drawn on to no clip missing (Chong & Forsyth
    2020).

    Each N is a mean over seeded draws. `linear`: whether even the smallest N is above the dimensions of the features;
    below, the value does not follow 1 / N, and the extrapolation shows no more than the direction of the bias.
    None below 8 clips.
    """
    n = min(len(real), len(fake))
    sizes = [int(n * part) for part in FRACTIONS]
    if n < 8:
        return None
    values = []
    for size in sizes:
        rng = np.random.default_rng([seed, size])
        draws = 1 if size == len(real) == len(fake) else DRAWS
        picks = [[np.sort(rng.choice(len(side), size, replace=False)) for side in (real, fake)] for _ in range(draws)]
        values.append(float(np.mean([of(real[i], fake[j]) for i, j in picks])))
    slope, limit = np.polyfit(1 / np.array(sizes), values, 1)
    return {
        "n": sizes,
        "fvd": values,
        "extrapolated": float(limit),
        "slope": float(slope),
        "linear": sizes[0] >= real.shape[1],
    }


def spread(values: list[float]) -> dict[str, Any]:
    """Values, their mean and standard deviation (ddof 1; 0 of a single one)."""
    return {
        "values": values,
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
    }


def of_report(report: dict[str, Any], metric: str) -> tuple[float, float | None]:
    """One of METRICS: mean and standard deviation over the seeds of the samples; of a single one its value, None."""
    seeds = report.get("seeds") or {}
    found = seeds if metric == "fvd" else seeds.get(metric)
    return (found["mean"], found["std"]) if found else (METRICS[metric](report), None)
