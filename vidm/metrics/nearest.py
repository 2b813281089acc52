"""A leak check: the training clip that is nearest to each of the first samples in the detector's feature space.

A model that copies its training set has samples far nearer to it than unseen test clips are. The pairs are drawn, as
a number alone does not tell a copy from a similar scene.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vidm.files import replacing
from vidm.metrics.features import Job

COLUMNS, SIDE, GAP, MARGIN = 8, 96, 2, 14


def nearest(fake: Job, train: Job, test: Job | None, count: int) -> tuple[dict[str, Any], list[tuple]]:
    """(facts for the report, pairs (sample's window, training window) for `draw`) of the first `count` samples.

    Distances are Euclidean, of the logits. `ratio`: a sample's distance over the median one of test clips.
    """
    order = sorted(range(len(fake.rows)), key=lambda r: fake.clips.windows[fake.rows[r]][0].index)[:count]
    gaps, best = _closest(fake.result[order], train.result)
    windows = train.clips.windows
    usual = float(np.median(_closest(test.result, train.result)[0])) if test is not None else None
    facts = {
        "among": len(train.rows),
        "of": len(train.clips),
        "test_median": usual,
        "samples": [
            {
                "sample": fake.clips.windows[fake.rows[row]][0].name,
                "train": windows[train.rows[k]][0].name,
                "distance": float(gap),
                "ratio": float(gap) / usual if usual else None,
            }
            for row, k, gap in zip(order, best, gaps, strict=True)
        ],
    }
    return facts, [(fake.rows[row], train.rows[k]) for row, k in zip(order, best, strict=True)]


def _closest(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each row of x (N,d) to the nearest of y (M,d), and which one that is."""
    gaps, best = [], []
    for row in x.astype(np.float64):
        square = np.square(y - row).sum(1)
        best.append(int(square.argmin()))
        gaps.append(float(np.sqrt(square[best[-1]])))
    return np.array(gaps), np.array(best)


def draw(path: Path, fake: Job, train: Job, pairs: list[tuple], facts: dict[str, Any]) -> None:
    """A PNG: for each pair the sample's frames, and below them the nearest training clip's."""
    from PIL import Image, ImageDraw

    strips = [
        (_strip(fake.clips.read(k)), _strip(train.clips.read(j)), said)
        for (k, j), said in zip(pairs, facts["samples"], strict=True)
    ]
    width = max(strip.shape[1] for *two, _ in strips for strip in two)
    heights = [one.shape[0] + two.shape[0] + MARGIN + 3 * GAP for one, two, _ in strips]
    sheet = Image.new("RGB", (width, sum(heights)), "white")
    pen, top = ImageDraw.Draw(sheet), 0
    for (one, two, said), height in zip(strips, heights, strict=True):
        ratio = f", {said['ratio']:.2f} of a test clip's median" if said["ratio"] else ""
        text = f"{said['sample']}; below: {said['train']}, distance {said['distance']:.1f}{ratio}"
        pen.text((2, top), text.encode("ascii", "replace").decode(), fill="black")
        sheet.paste(Image.fromarray(one), (0, top + MARGIN))
        sheet.paste(Image.fromarray(two), (0, top + MARGIN + one.shape[0] + GAP))
        top += height
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")


def _strip(clip: np.ndarray) -> np.ndarray:
    """(T,H,W,3) -> one row of up to COLUMNS frames, spread evenly, each SIDE pixels high."""
    from PIL import Image

    chosen = clip[np.linspace(0, len(clip) - 1, min(COLUMNS, len(clip))).round().astype(int)]
    size = (max(1, round(SIDE * clip.shape[2] / clip.shape[1])), SIDE)
    frames = [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC)) for f in chosen]
    return np.concatenate(frames, 1)
