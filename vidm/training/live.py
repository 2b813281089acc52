"""Curves and pictures of a run for DVC while it runs, by DVCLive through accelerate's tracker.

    runs/{experiment}/{part}-{hash}/live/
      metrics.json                  the last values
      plots/metrics/{name}.tsv      loss, smoothed, lr, samples, samples_per_second, gpu_gib
      plots/images/preview.png      the last picture

`dvc plots show` and `dvc metrics show` take these files. They are for looking at: where dvclive is not installed, or
the disk is full, a run trains on without them. DVCLive reads its whole history at each entry, about 10 ms; a run has
at most about POINTS of them, whatever its length.
"""

from __future__ import annotations

import sys
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from PIL import Image

POINTS = 500
NAME = "dvclive"


def tracker() -> str | None:
    """What an accelerator logs with: DVCLive, where it is installed."""
    return NAME if NAME in [str(getattr(found, "value", found)) for found in get_available_trackers()] else None


class Live:
    """`log` and `picture` for one run folder; both do nothing where the accelerator has no DVCLive tracker."""

    def __init__(self, accelerator: Accelerator, folder: Path, steps: int, log_every: int) -> None:
        self.accelerator, self.folder = accelerator, folder / "live"
        self.every = log_every * max(1, steps // (log_every * POINTS))
        self.on = NAME in [str(getattr(name, "value", name)) for name in accelerator.log_with]

    def open(self, step: int) -> None:
        """Go on after `step`: what an earlier process wrote beyond it is cut off."""
        if not self.on:
            return
        if self.accelerator.is_main_process:
            for path in self.folder.glob("plots/metrics/*.tsv"):
                _cut(path, step)
            (self.folder / "metrics.json").unlink(missing_ok=True)  # perhaps half-written; made anew at the next entry
        settings = {"dir": str(self.folder), "resume": True, "save_dvc_exp": False, "dvcyaml": None}
        self.accelerator.init_trackers("vidm", init_kwargs={NAME: settings})

    def log(self, step: int, last: bool, **values: float) -> None:
        """The values after `step` steps, where they are due."""
        if self.on and (last or step % self.every == 0):
            self._try(lambda: self.accelerator.log(values, step=step))

    def picture(self, path: Path) -> None:
        """A picture, in the place of the one before."""
        if not self.on:
            return

        def show() -> None:
            with Image.open(path) as image:
                self.accelerator.get_tracker(NAME, unwrap=True).log_image("preview.png", image)

        self._try(show)

    def close(self) -> None:
        if self.on:
            for tracker in self.accelerator.trackers:
                self._try(tracker.finish)
            self.accelerator.trackers.clear()

    def _try(self, write) -> None:
        try:
            write()
        except OSError as error:
            self.on = False
            print(f"vidm: {self.folder}: no more curves for DVC ({error.strerror or error})", file=sys.stderr)


def _cut(path: Path, step: int) -> None:
    """Keep the head and the rows up to `step`; a row without its end is none."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines[1:] if line.endswith("\n") and int(line.split("\t")[0]) <= step]
    path.write_text("".join([*lines[:1], *kept]), encoding="utf-8")
