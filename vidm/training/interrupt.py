"""Stopping well: a signal asks for a save at the end of the step.

SIGTERM is what a cluster sends before it takes a node back, SIGINT is Ctrl-C, SIGUSR1 is SLURM's early warning
(`--signal=USR1@120`). A second SIGINT stops at once.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


class Asked:
    """While entered, `signal` is the name of what came, or "". In another thread than the main one nothing comes."""

    def __init__(self) -> None:
        self.signal = ""
        self._before: dict[int, object] = {}

    def __enter__(self) -> Asked:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name
