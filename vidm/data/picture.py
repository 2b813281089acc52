"""One frame of some clips per split, as they would be stored: what `vidm data inspect --picture` draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vidm import config
from vidm.data.decoding import snapshot
from vidm.data.extract import shown
from vidm.data.inspection import UNDECIDED, examined, ordered
from vidm.data.layouts import find
from vidm.data.probing import Probe, VideoError
from vidm.data.store import FrameStore
from vidm.errors import InputError
from vidm.files import replacing

ROW = 8  # clips of a split
FORMATS = (".png", ".svg", ".pdf", ".jpg")


def draw(path: str | Path, facts: config.Dataset, out: Path) -> None:
    """One frame of some clips per split, as they would be stored, into a picture file. Raises InputError."""
    from matplotlib.figure import Figure

    if out.suffix.lower() not in FORMATS:
        raise InputError(f"{out}: not a picture's name; it must end in one of {', '.join(FORMATS)}")
    rows = _shown(Path(path), facts)
    if not rows:
        raise InputError(f"{path}: no clip to draw")
    side = next(frame.shape[0] for clips in rows.values() for _, frame in clips)
    step = round(side * 1.15)  # room for the names
    sheet = np.full((len(rows) * step, ROW * step, 3), 255, np.uint8)
    figure = Figure(figsize=(1.3 * ROW + 0.3, 1.3 * len(rows)), dpi=120)
    axes = figure.add_axes((0.3 / (1.3 * ROW + 0.3), 0, 1 - 0.3 / (1.3 * ROW + 0.3), 1))
    axes.axis("off")
    for row, (split, clips) in enumerate(rows.items()):
        bottom = (row + 1) * step
        axes.text(-0.05 * step, bottom - side / 2, split, rotation=90, va="center", ha="right", fontsize=7)
        for column, (name, frame) in enumerate(clips):
            left = column * step
            sheet[bottom - frame.shape[0] : bottom, left : left + frame.shape[1]] = frame
            axes.text(left, bottom - side - 0.03 * step, name, fontsize=5, parse_math=False)
    axes.imshow(sheet)
    with replacing(out) as temporary:
        figure.savefig(temporary, format=out.suffix[1:].lower())


def _shown(path: Path, facts: config.Dataset) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Of each split up to ROW clips, evenly spread: (name, frame)."""
    if path.is_file():
        with FrameStore(path) as store:
            spread = {s: _spread(store.indices(s), ROW) for s in ordered(store.splits)}
            return {
                s: [(_short(store.sources[i]), store.frame(i, store.length(i) // 2)) for i in chosen]
                for s, chosen in spread.items()
            }
    clips = [c for c in find(path, facts.layout, facts.fold).clips if not c.reason]
    rows = {}
    for split in ordered(c.split or UNDECIDED for c in clips):
        among = [c for c in clips if (c.split or UNDECIDED) == split]
        drawn = []
        for candidate in _spread(among, 2 * ROW):  # twice: some of them may not open
            probe = examined(candidate, facts)
            if isinstance(probe, Probe) and len(drawn) < ROW:
                try:
                    # Not the first: it is often black. Not far in: all before it must be decoded.
                    frame = snapshot(candidate.path, probe, min(facts.resolution, 256), min(probe.frames // 2, 48))
                except VideoError:
                    continue
                drawn.append((_short(candidate.source), frame))
        if drawn:
            rows[split] = drawn
    return rows


def _spread(items: list, most: int) -> list:
    return items if len(items) <= most else [items[k * len(items) // most] for k in range(most)]


def _short(name: str) -> str:
    last = shown(name.rsplit("/", 1)[-1]).encode("ascii", "backslashreplace").decode()  # in the font for sure
    return last if len(last) <= 24 else f"{last[:22]}..."
