"""Where the time goes: seconds by part, each without what is timed inside it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

PARTS = {
    "content": "first frames",
    "spynet": "motion codes",
    "encoder": "residual features",
    "unet": "the motion network's U-Net",
    "coordinates": "scale and shift of every PosGN",
    "scheduler": "a sampler's own arithmetic",
    "noise": "drawing it",
    "io": "frames to the CPU and to disk",
}


class Clock:
    """`with clock("unet"):` adds to that part. On a GPU it waits for it at each border, which alone costs time.

    A clock without a device is off and does nothing. `now`: of whose seconds.
    """

    def __init__(self, device: torch.device | None = None, now: Callable[[], float] = time.perf_counter) -> None:
        self.device, self.now, self.seconds = device, now, Counter()
        self._open, self._since = [], 0.0

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        if self.device is None:
            yield
            return
        self._turn()
        self._open.append(part)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = self.now()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def table(self, whole: float) -> str:
        """A line for each part; `whole`: seconds of everything."""
        known = [(part, about, self.seconds[part]) for part, about in PARTS.items()]
        rows = [*known, ("rest", "", max(0.0, whole - sum(s for _, _, s in known)))]
        lines = [f"{part:<12}{s:>9.2f} s {s / max(whole, 1e-9):>6.1%}  {about}".rstrip() for part, about, s in rows]
        return "\n".join([*lines, f"{'all':<12}{whole:>9.2f} s"])
