"""Random 16-frame windows per second from the frame store, beside other ways to keep them.

    python benchmarks/reading.py [--clips 64] [--frames 128] [--seconds 3] [--rounds 5]

    vidm      FrameStore.read
    h5py      a slice of the same file's `frames`, without vidm: what the storage format gives
    png       a folder of PNGs for each clip, read with Pillow

All read the same windows, in turns; the ratios are medians over the rounds. The file is in the page cache for all.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from vidm.data.store import FrameStore, StoreWriter

WINDOW, SIDE = 16, 128


def clips(count: int, frames: int) -> list[np.ndarray]:
    """Smooth, moving pictures with grain: PNG compresses them as it does film."""
    y, x = np.mgrid[:SIDE, :SIDE]
    rng = np.random.default_rng(0)
    made = []
    for k in range(count):
        waves = [np.stack([x + 3 * t + k, y + 2 * t, x + y - t], -1) / (9 + k % 7) for t in range(frames)]
        grain = rng.normal(0, 2, (frames, SIDE, SIDE, 3))
        made.append((127 + 100 * np.sin(np.stack(waves)) + grain).clip(0, 255).astype(np.uint8))
    return made


def rate(read: Callable[[int, int], object], windows: list[tuple[int, int]], seconds: float) -> float:
    """Windows per second, over at least `seconds`."""
    done, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        read(*windows[done % len(windows)])
        done += 1
    return done / passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path, folder = Path(scratch) / "s.h5", Path(scratch) / "png"
        with StoreWriter(path, SIDE, SIDE, {}, "raw") as writer:
            for k, clip in enumerate(clips(options.clips, options.frames)):
                writer.add(clip, fps=25, split="train", source=f"{k}")
                (folder / f"{k}").mkdir(parents=True)
                for n, image in enumerate(clip):
                    Image.fromarray(image).save(folder / f"{k}" / f"{n:04d}.png")
        rng = np.random.default_rng(1)
        places = rng.integers([options.clips, options.frames - WINDOW + 1], size=(4096, 2)).tolist()
        store, file = FrameStore(path), h5py.File(path, "r")
        frames, starts = file["frames"], file["clip_start"][:]

        def png(k: int, start: int) -> np.ndarray:
            names = [folder / f"{k}" / f"{n:04d}.png" for n in range(start, start + WINDOW)]
            return np.stack([np.asarray(Image.open(name)) for name in names])

        ways = {
            "vidm": lambda k, start: store.read(k, start, WINDOW),
            "h5py": lambda k, start: frames[starts[k] + start : starts[k] + start + WINDOW],
            "png": png,
        }
        for read in ways.values():
            np.testing.assert_array_equal(read(3, 5), store.read(3, 5, WINDOW))
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, read in ways.items():
                found[name].append(rate(read, places, options.seconds))
        for name, rates in found.items():
            print(f"{name:6} {statistics.median(rates):8.1f} windows/s")
        for name in ("h5py", "png"):
            ratio = statistics.median(a / b for a, b in zip(found["vidm"], found[name], strict=True))
            print(f"vidm / {name}: {ratio:.2f}")


if __name__ == "__main__":
    main()
