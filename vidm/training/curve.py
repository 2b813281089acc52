"""The loss curve of a run as a CSV that survives a kill: rows are added, and cut back to where a run goes on.

Those of a longer run with the same facts, whose checkpoint is there, stay behind the rows of a shorter one.
"""

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
        self._longer: list[tuple[int, int, float, float]] = []

    def cut(self, step: int, longer: int = 0) -> None:
        """Read the rows up to `step`; a row that a kill left incomplete is none.

        longer: where a longer run has a checkpoint; rows up to there stay in the file.
        """
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
        self._longer = [row for row in rows if step < row[0] <= longer]
        if self.path:
            self._rewrite()

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
        if self._longer:
            self._rewrite()
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(self.rows[self._written :])
            file.flush()
            os.fsync(file.fileno())
        self._written = len(self.rows)

    def export(self, path: Path) -> None:
        """This run's curve as a file of its own."""
        _save(path, self.rows)

    def _rewrite(self) -> None:
        last = self.rows[-1][0] if self.rows else 0
        _save(self.path, self.rows + [row for row in self._longer if row[0] > last])
        self._written = len(self.rows)


def _save(path: Path, rows: list[tuple[int, int, float, float]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEAD)
        writer.writerows(rows)
