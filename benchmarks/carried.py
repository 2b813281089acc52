"""What is left of frame n after frame n-1 was carried on: by which flow, and how it is interpolated.

    python benchmarks/carried.py data/frames/sky.h5

Root mean square over pixels and clips, frames in [-1, 1]; the first 64 clips of the test split. The flow is that of the
package's SpyNet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from vidm import weights
from vidm.data.store import FrameStore
from vidm.models.spynet import SpyNet, warp

FRAMES = 16
SHOWN = (2, 3, 8, 15)


@torch.inference_mode()
def left(x: torch.Tensor, spynet: SpyNet, n: int, gap: int | None, mode: str) -> float:
    """What is left of frame n of clips (V, T, 3, S, S); gap: frames that the flow spans, None: no flow."""
    carried = x[:, n - 1]
    if gap is not None:
        gap = min(gap, n - 1)
        flow = spynet((x[:, n - 1] + 1) / 2, (x[:, n - 1 - gap] + 1) / 2)
        carried = warp(carried, flow / gap, mode)
    return float((x[:, n] - carried).square().mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path, nargs="?", default=Path("data/frames/sky.h5"))
    parser.add_argument("--clips", type=int, default=64)
    arguments = parser.parse_args()
    with FrameStore(arguments.store) as store:
        which = store.indices("test")[: arguments.clips]
        clips = np.stack([store.read(i, 0, FRAMES) for i in which])
    x = torch.from_numpy(clips).permute(0, 1, 4, 2, 3) / 127.5 - 1
    spynet = SpyNet()
    spynet.load_pretrained(weights.load("spynet-procedural")[0])
    rows = {"x(n-1) itself": (None, "bilinear")}
    for name, gap in (("from frame 0", FRAMES), ("over four frames", 4), ("over one frame", 1)):
        rows |= {f"flow {name}, {mode}": (gap, mode) for mode in ("bilinear", "bicubic")}
    print("| carried by | " + " | ".join(f"n = {n}" for n in SHOWN) + " | mean of 2-15 |")
    print("| --- |" + " --- |" * (len(SHOWN) + 1))
    for name, (gap, mode) in rows.items():
        found = {n: left(x, spynet, n, gap, mode) for n in range(2, FRAMES)}
        print(f"| {name} | " + " | ".join(f"{found[n]:.3f}" for n in SHOWN), f"| {np.mean(list(found.values())):.3f} |")


if __name__ == "__main__":
    main()
