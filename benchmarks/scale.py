"""A frame store of Kinetics' size, simulated: what opening it costs, and what a random window costs.

    python benchmarks/scale.py [--clips 500000] [--chunks 1000000]

First, tables of as many clips as asked for, with frames that were never written: time to open, memory, size. The same
in shards, of which a reader opens the index alone: names and hashes stay on the disk.
Then frames of 2 x 2 pixels in as many chunks as asked for: HDF5 finds a chunk in a tree, and the tree grows.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from vidm.data.store import FIELDS, FORMAT, VERSION, FrameStore

LENGTH = 300  # frames of a clip: ten seconds


def tables(path: Path, clips: int, side: int = 128) -> None:
    """A store whose tables are whole and whose frames take no room."""
    values = {
        "start": np.arange(clips) * LENGTH,
        "length": np.full(clips, LENGTH),
        "fps": np.full(clips, 30.0),
        "stride": np.ones(clips, np.int64),
        "split": ["train"] * clips,
        "class": [f"class {k % 400}" for k in range(clips)],
        "source": [f"train/class {k % 400}/{hashlib.md5(b'%d' % k).hexdigest()[:11]}.mp4" for k in range(clips)],
        "hash": [hashlib.sha256(b"%d" % k).hexdigest() for k in range(clips)],
    }
    with h5py.File(path, "w") as file:
        shape = (clips * LENGTH, side, side, 3)
        file.create_dataset("frames", shape, np.uint8, maxshape=(None, *shape[1:]), chunks=(5, *shape[1:]))
        for field, kind in FIELDS.items():
            dtype = h5py.string_dtype() if kind is str else kind
            file.create_dataset(f"clip_{field}", (clips,), dtype)[:] = values[field]
        facts = {"format": FORMAT, "version": VERSION, "resolution": side, "origin": "raw", "facts": "{}"}
        file.attrs.update(facts | {"skipped": "[]", "dropped": 0, "sha256": "0" * 64})


def resident() -> float:
    """MB in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def opened(path: Path) -> None:
    """In a process of its own: seconds to open, MB that it takes."""
    before = resident()
    started = time.perf_counter()
    store = FrameStore(path)
    seconds = time.perf_counter() - started
    print(f"{seconds:.2f} s, {resident() - before:.0f} MB", end="")
    assert len(store)


def numbers(path: Path) -> None:
    """The same for the numbers alone: what a reader of shards keeps."""
    before = resident()
    started = time.perf_counter()
    with h5py.File(path) as file:
        kept = [file[f"clip_{name}"][:] for name in ("start", "length", "fps", "stride")]
    seconds = time.perf_counter() - started
    print(f"{seconds:.3f} s, {resident() - before:.0f} MB", end="")
    assert kept


def apart(what: str, path: Path) -> str:
    command = [sys.executable, __file__, "--measure", what, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def windows(path: Path, chunks: int) -> tuple[float, float]:
    """Microseconds for a random window of 16 frames, the file just opened and after 2000 of them."""
    with h5py.File(path, "w") as file:
        shape = (chunks * 5, 2, 2, 3)
        frames = file.create_dataset("frames", shape, np.uint8, maxshape=(None, 2, 2, 3), chunks=(5, 2, 2, 3))
        block = np.ones((50_000, 2, 2, 3), np.uint8)
        for start in range(0, shape[0], len(block)):
            frames[start : start + len(block)] = block[: shape[0] - start]
    places = np.random.default_rng(0).integers(shape[0] - 16, size=4000).tolist()
    with h5py.File(path) as file:
        frames, taken = file["frames"], []
        for start in places:
            started = time.perf_counter()
            frames[start : start + 16]
            taken.append(time.perf_counter() - started)
    return tuple(1e6 * float(np.median(part)) for part in (taken[:50], taken[2000:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=500_000)
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        {"open": opened, "numbers": numbers}[options.measure[0]](Path(options.measure[1]))
        return
    with tempfile.TemporaryDirectory() as scratch:
        for clips in (options.clips // 100, options.clips // 10, options.clips):
            path = Path(scratch) / f"{clips}.h5"
            tables(path, clips)
            size = path.stat().st_size / 1e6
            print(f"{clips:8} clips: tables {size:6.1f} MB; opened in {apart('open', path)}; ", end="")
            print(f"numbers alone {apart('numbers', path)}")
        for chunks in (options.chunks // 100, options.chunks // 10, options.chunks):
            first, later = windows(Path(scratch) / "w.h5", chunks)
            print(f"{chunks:8} chunks: a window {first:.0f} us at first, {later:.0f} us later")


if __name__ == "__main__":
    main()
