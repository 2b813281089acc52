"""The loss curve of a run as a CSV that survives a kill: rows are added, and cut back to where a run goes on."""

from __future__ import annotations

import csv
import math
import os
import sys
from pathlib import Path

from vidm.files import replacing

HEAD = ["step", "samples", "loss", "lr"]
SMOOTH = 0.9  # of the rows before
SPIKE = 3.0  # times the smoothed loss


class Curve:
    """`add` a row: the mean loss since the last one. `smoothed` is the moving average of the rows' losses.

    folder: None keeps it in memory, in every process but the first.
    """

    def __init__(self, folder: Path | None) -> None:
        self.path = folder / "curve.csv" if folder else None
        self.rows: list[tuple[int, int, float, float]] = []
        self.smoothed = math.nan
        self._written = 0

    def cut(self, step: int) -> None:
        """Read the rows up to `step`; a row that a kill left incomplete is none."""
        rows = []
        if self.path and self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                for row in csv.reader(file):
                    try:
                        rows.append((int(row[0]), int(row[1]), float(row[2]), float(row[3])))
                    except (ValueError, IndexError):
                        continue
        self.rows, self.smoothed = [], math.nan
        for row in rows:
            if row[0] <= step:
                self._take(row)
        if self.path:
            self.export(self.path)
        self._written = len(self.rows)

    def add(self, step: int, samples: int, loss: float, lr: float) -> str:
        """A row; what is to be said about it. A sudden rise is reported."""
        if loss > SPIKE * self.smoothed:
            print(f"vidm: the loss rose to {loss:.4f} at step {step}, from about {self.smoothed:.4f}", file=sys.stderr)
        self._take((step, samples, loss, lr))
        return f"loss {loss:.4f}, smoothed {self.smoothed:.4f}"

    def _take(self, row: tuple[int, int, float, float]) -> None:
        self.rows.append(row)
        self.smoothed = row[2] if math.isnan(self.smoothed) else SMOOTH * self.smoothed + (1 - SMOOTH) * row[2]

    def write(self) -> None:
        """Bring the new rows to the disk, before a checkpoint that has them behind it."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(self.rows[self._written :])
            file.flush()
            os.fsync(file.fileno())
        self._written = len(self.rows)

    def export(self, path: Path) -> None:
        """The whole curve as a file of its own."""
        with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(HEAD)
            writer.writerows(self.rows)
