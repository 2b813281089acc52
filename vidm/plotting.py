"""Pictures that notebooks and figures share: one style, few helpers, no science.

frames   (T, H, W, 3) uint8, or float in [0, 1]
flow     (2, H, W), (dx, dy) in pixels, y downwards
x        tensors and arrays (..., 3, H, W) in [-1, 1]; `pixels` makes frames of them

Colours are Okabe & Ito's, which people with any colour vision can tell apart; signed maps use blue-white-red, others
viridis. Flow has the colours of Baker et al. (2011), the Middlebury wheel: hue is direction, saturation is length.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vidm.errors import InputError
from vidm.files import replacing

COLUMN, PAGE = 3.4, 7.0  # inches: of a column and of a page of a paper
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
)  # fmt: skip
COLOURS = (BLUE, RED, GREEN, ORANGE, SKY, PINK, BLACK)
SIGNED = "RdBu_r"
STYLE = {
    "figure.dpi": 120,
    "figure.figsize": (COLUMN, 2.3),
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.03,
    "svg.hashsalt": "vidm",  # the same figure gives the same file
    "svg.fonttype": "none",  # text stays text
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "lines.linewidth": 1.2,
    "image.cmap": "viridis",
    "image.interpolation": "nearest",
}
GAP = 0.04  # between two frames of a strip, in frames
# Where the wheel has which colour: red, yellow, green, cyan, blue, magenta, red; 55 steps in all.
KNOTS = (0, 15, 21, 25, 36, 49, 55)
WHEEL = np.array([(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0)], float)


class Missing(InputError):
    """Files that are not there yet. A notebook shows the text alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


def use_style() -> None:
    """The style of all figures, from here on."""
    plt.rcParams.update(STYLE)


def require(root: str | Path, *names: str) -> list[Path]:
    """The files of a project, by their names below its root.

    Raises Missing, with the command that makes each file that is not there.
    """
    lines = []
    for name in names:
        if not (Path(root) / name).exists():
            lines.append(f"{name} is not there yet; make it: snakemake --cores all {name}")
    if lines:
        raise Missing("\n".join(lines))
    return [Path(root) / name for name in names]


def pixels(x) -> np.ndarray:
    """(..., 3, H, W) in [-1, 1], tensor or array -> (..., H, W, 3) uint8."""
    x = x.detach().cpu().float().numpy() if hasattr(x, "detach") else np.asarray(x)
    return np.moveaxis(np.rint((x + 1) * 127.5).clip(0, 255).astype(np.uint8), -3, -1)


def save(figure: Figure, folder: str | Path, name: str) -> None:
    """folder/name.png and folder/name.svg; the same figure gives the same bytes."""
    for kind, about in (("png", {"Software": None}), ("svg", {"Date": None})):
        with replacing(Path(folder) / f"{name}.{kind}") as temporary:
            figure.savefig(temporary, format=kind, metadata=about)


def strips(
    rows: Mapping[str, Sequence[np.ndarray]],
    heads: Sequence[object] | None = None,
    width: float = PAGE,
    title: str = "frame",
) -> Figure:
    """Images in rows, a label before each row and a number or word over each column, as in the paper's Fig. 3.

    rows: {label: images, each (H, W, 3)}; None leaves a place empty. heads: of the columns, 0, 1, .. without any.
    """
    columns = max(map(len, rows.values()))
    heads = list(range(columns)) if heads is None else list(heads)
    figure, axes = plt.subplots(figsize=(width, width / (columns + 1) * (len(rows) + 0.6)))
    for r, images in enumerate(rows.values()):
        for c, image in enumerate(images):
            if image is not None:
                axes.imshow(image, extent=(c, c + 1 - GAP, r + 1 - GAP, r))
    axes.set(xlim=(0, columns - GAP), ylim=(len(rows) - GAP, 0), aspect="equal")
    axes.set_xticks(np.arange(columns) + (1 - GAP) / 2, heads)
    axes.set_yticks(np.arange(len(rows)) + (1 - GAP) / 2, rows)
    axes.xaxis.set_ticks_position("top")
    axes.xaxis.set_label_position("top")
    axes.set_xlabel(title)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def flow_image(flow: np.ndarray, largest: float | None = None) -> np.ndarray:
    """A flow in the colours of the Middlebury wheel: (H, W, 3) in [0, 1], white where nothing moves.

    largest: length in pixels of the full colour, the flow's own longest without one; what is longer is darker.
    """
    dx, dy = np.asarray(flow, dtype=np.float64)
    length = np.hypot(dx, dy)
    largest = largest or float(length.max()) or 1.0
    place = (np.arctan2(-dy, -dx) / np.pi + 1) / 2 * (KNOTS[-1] - 1)
    hue = np.stack([np.interp(place, KNOTS, channel) for channel in WHEEL.T], axis=-1)
    length = (length / largest)[..., None]
    return np.where(length <= 1, 1 - length * (1 - hue), 0.75 * hue)


def colour_wheel(axes: Axes, largest: float) -> None:
    """The legend of `flow_image`: the colour of every flow up to `largest` pixels."""
    side = np.linspace(-largest, largest, 201)
    flow = np.stack(np.meshgrid(side, side))
    image = np.where((np.hypot(*flow) <= largest)[..., None], flow_image(flow, largest), 1)
    axes.imshow(image, extent=(-largest, largest, largest, -largest))
    axes.set(xlabel="dx (px)", ylabel="dy (px)", xticks=(-largest, 0, largest), yticks=(-largest, 0, largest))
    names = [f"{-largest:.3g}", "0", f"{largest:.3g}"]
    axes.set_xticklabels(names)
    axes.set_yticklabels(names)
    axes.spines[:].set_visible(False)


def field(axes: Axes, values: np.ndarray, largest: float | None = None, **extent):
    """A signed map (H, W), 0 white; returns the image, for a colour bar. largest: |value| of the full colour."""
    largest = largest or float(np.abs(values).max()) or 1.0
    image = axes.imshow(values, cmap=SIGNED, vmin=-largest, vmax=largest, **extent)
    axes.spines[:].set_visible(False)
    return image


def shades(values: np.ndarray, largest: float) -> np.ndarray:
    """Values (...) in 0..largest as colours (..., 3) in [0, 1], dark to bright."""
    return plt.get_cmap()(np.asarray(values) / largest)[..., :3]


def spread(axes: Axes, rows: Sequence[tuple[float, Sequence[float]]], colour: str, offset: float, label: str) -> None:
    """For each (y, values): the values as small dots, their mean as a large one, a standard deviation to each side."""
    for y, values in rows:
        mean, deviation = np.mean(values), np.std(values, ddof=min(1, len(values) - 1))
        axes.plot(values, np.full(len(values), y + offset), "o", color=colour, markersize=2, alpha=0.5)
        axes.plot([mean - deviation, mean + deviation], [y + offset] * 2, color=colour)
        axes.plot(mean, y + offset, "o", color=colour, markersize=5, label=label)
        label = "_"  # one entry in the legend


def whole_numbers(axes: Axes) -> None:
    """Ticks of the x axis at whole numbers: frames, steps, videos."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def read_curve(path: str | Path) -> dict[str, np.ndarray]:
    """The columns of a loss curve (`{part}_loss.csv`) by their names. Raises InputError where it is none."""
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {name: np.array([float(row[name]) for row in rows]) for name in ("step", "samples", "loss", "lr")}
    except (OSError, KeyError, ValueError, TypeError):
        raise InputError(f"{path}: not the loss curve of a training; train again") from None


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over `window` neighbours, fewer at both ends: (N,) -> (N,)."""
    weights = np.ones(max(1, min(window, len(values))))
    return np.convolve(values, weights, "same") / np.convolve(np.ones(len(values)), weights, "same")


def principal(points: np.ndarray, count: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Principal components: points (N, D) -> their coordinates (N, count) and each one's share of the variance.

    In the unit of the points. The sign, which is arbitrary, makes the largest coordinate of each positive.
    """
    centred = np.asarray(points, np.float64) - np.mean(points, axis=0, dtype=np.float64)
    u, values, _ = np.linalg.svd(centred, full_matrices=False)
    coordinates = (u * values)[:, :count]
    signs = np.sign(coordinates[np.abs(coordinates).argmax(0), np.arange(coordinates.shape[1])])
    total = (values**2).sum()
    return coordinates * np.where(signs, signs, 1), values[:count] ** 2 / total if total else 0 * values[:count]


def note(text: str, width: float = COLUMN) -> Figure:
    """A figure that says why there is none."""
    figure, axes = plt.subplots(figsize=(width, 0.6))
    axes.text(0.5, 0.5, text, ha="center", va="center", wrap=True)
    axes.axis("off")
    return figure
