"""Progress for people: a bar with rate and time left on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar:
    """`advance(n, note)` moves the bar; the note is shown behind it (a loss, a file name)."""

    def __init__(self, total: int, description: str, unit: str, progress: Progress | None, done: int = 0) -> None:
        self.total, self.description, self.unit, self.done, self.before = total, description, unit, done, done
        self.started = self.spoken = time.monotonic()
        self.progress = progress
        self.task = progress.add_task(description, total=total, completed=done, rate="", note="") if progress else None

    def advance(self, n: int = 1, note: str = "") -> None:
        self.done += n
        now = time.monotonic()
        rate = (self.done - self.before) / max(now - self.started, 1e-9)
        if self.progress:
            self.progress.update(self.task, advance=n, rate=f"{rate:.1f} {self.unit}/s", note=note)
        elif self.done >= self.total or now - self.spoken > 10:
            self.spoken = now
            left = (self.total - self.done) / max(rate, 1e-9)
            print(
                f"{self.description}: {self.done}/{self.total} {self.unit}, {rate:.1f}/s, "
                f"{left:.0f} s left{', ' + note if note else ''}",
                file=sys.stderr,
                flush=True,
            )


@contextmanager
def bar(total: int, description: str, unit: str = "it", done: int = 0) -> Iterator[Bar]:
    """A progress bar on stderr over `total` units, of which `done` were done before."""
    if not sys.stderr.isatty():
        yield Bar(total, description, unit, None, done)
        return
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    ]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Bar(total, description, unit, progress, done)
