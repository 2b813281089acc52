"""Seconds per 16-frame clip of the I3D detector, by memory layout and batch size.

    python benchmarks/i3d.py --threads 2 --rounds 5

Variants take turns, so that what else the machine does falls on all of them; medians are printed, and the ratio to
the setting that vidm uses (channels last, batch of vidm.metrics.features.BATCH).
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from vidm.metrics.features import BATCH
from vidm.metrics.i3d import load_i3d


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    models = {
        "channels last": load_i3d(),
        "contiguous": load_i3d().to(memory_format=torch.contiguous_format),
    }
    clips = torch.rand(max(*arguments.batches, BATCH), 3, 16, 224, 224) * 2 - 1
    took: dict[tuple[str, int], list[float]] = {}
    with torch.inference_mode():
        for turn in range(arguments.rounds + 1):
            for layout, model in models.items():
                for batch in sorted({*arguments.batches, BATCH}):
                    started = time.perf_counter()
                    model(clips[:batch])
                    if turn:  # the first one warms up
                        took.setdefault((layout, batch), []).append((time.perf_counter() - started) / batch)
    medians = {key: statistics.median(values) for key, values in took.items()}
    used = medians["channels last", BATCH]
    print(f"{'layout':15}{'batch':>6}{'s/clip':>9}{'ratio':>7}")
    for (layout, batch), seconds in medians.items():
        print(f"{layout:15}{batch:6}{seconds:9.3f}{seconds / used:7.2f}")


if __name__ == "__main__":
    main()
