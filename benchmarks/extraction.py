"""Frames per second from videos into the frame store, beside two baselines of the same run.

    python benchmarks/extraction.py [--clips 64] [--workers 0]

Baselines: one worker; and PyAV decoding in one thread of this process, scaled and cropped by its own scaler,
kept in memory only (no hashes, no file, no colour at full chroma).
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from vidm.config import Dataset
from vidm.data.extract import extract
from vidm.data.video import encode
from vidm.machine import cores


def videos(folder: Path, count: int, height: int = 360, width: int = 640, frames: int = 32) -> None:
    y, x = np.mgrid[:height, :width]
    for i in range(count):
        waves = [np.stack([x + 9 * t + i, y + 5 * t, x + y - 3 * t], -1) / 40 for t in range(frames)]
        encode(folder / f"{i}.mp4", (127 + 100 * np.sin(np.stack(waves))).astype(np.uint8), 25)


def plain(folder: Path, side: int) -> float:
    started, frames = time.perf_counter(), 0
    for path in folder.iterdir():
        with av.open(os.fspath(path)) as container:
            container.streams.video[0].thread_count = 1
            kept = []
            for frame in container.decode(video=0):
                width = round(side * frame.width / frame.height)
                left = (width - side) // 2
                image = frame.reformat(width, side, "rgb24", interpolation="AREA", threads=1).to_ndarray()
                kept.append(image[:, left : left + side])
            frames += len(np.stack(kept))
    return frames / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0, help="0: one per core")
    parser.add_argument("--resolution", type=int, default=128)
    options = parser.parse_args()
    workers = options.workers or cores()
    facts = Dataset(raw="data/raw/benchmark", resolution=options.resolution)
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / "raw"
        raw.mkdir()
        videos(raw, options.clips)
        rates = {"PyAV, one thread, no file": plain(raw, options.resolution)}
        for count in dict.fromkeys((1, workers)):
            started = time.perf_counter()
            extract(raw, Path(scratch) / "s.h5", facts, workers=count)
            rates[f"vidm data extract, {count} workers"] = options.clips * 32 / (time.perf_counter() - started)
    base = next(iter(rates.values()))
    for name, rate in rates.items():
        print(f"{name:32} {rate:8.0f} frames/s   x {rate / base:.2f}")


if __name__ == "__main__":
    main()
