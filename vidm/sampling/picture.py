"""Videos straight into a picture that moves: `vidm sample ... --out skies.mp4`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from vidm.data.store import FrameStore
from vidm.errors import InputError
from vidm.files import check_file
from vidm.sampling import show

MOVING = (".mp4", ".gif", ".webp")
# Names that are meant as files, and that nothing here writes. Any other is a folder's: `out.v2`.
FILES = {".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".avif", ".apng"}
FILES |= {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".svg", ".pdf", ".h5", ".hdf5", ".npy", ".npz", ".zip"}
VIDEOS, COLUMNS, SIDE = 8, 4, 192  # at most, where a call says no number; and pixels that each is enlarged to


def moves(out: Path) -> bool:
    """Whether `out` is a moving picture by its name; a folder otherwise. Raises InputError where it is neither."""
    kind = out.suffix.lower()
    if kind in FILES:
        raise InputError(f"{out}: ends in none of {', '.join(MOVING)}; a folder's name has no such ending")
    return kind in MOVING


def picture(out: Path, sample: Callable[[Path, Path], None]) -> str:
    """Have `sample(folder, runs)` make the videos, and draw all of them as one grid. Returns what was written."""
    check_file(out)
    with tempfile.TemporaryDirectory(prefix="vidm-") as temporary:
        folder = Path(temporary)
        sample(folder / "samples", folder / "runs")
        made = folder / "samples" / "samples.h5"
        return show.export(made, out, list(range(len(FrameStore(made)))), 1, None, COLUMNS, SIDE)
