"""Videos straight into a picture that moves: `vidm sample ... --out skies.mp4`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from vidm.files import check_file
from vidm.sampling import show

MOVING = (".mp4", ".gif", ".webp")
VIDEOS, COLUMNS, SIDE = 8, 4, 192  # where a call says no number; and pixels that each is enlarged to


def picture(out: Path, videos: int, sample: Callable[[Path, Path], None]) -> str:
    """Have `sample(folder, runs)` make the videos, and draw all of them as one grid. Returns what was written."""
    check_file(out)
    with tempfile.TemporaryDirectory(prefix="vidm-") as temporary:
        folder = Path(temporary)
        sample(folder / "samples", folder / "runs")
        return show.export(folder / "samples" / "samples.h5", out, list(range(videos)), 1, None, COLUMNS, SIDE)
