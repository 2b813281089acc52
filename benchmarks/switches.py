"""What each switch beyond the paper does against drift and flicker: a table, and a picture of frame 15.

    snakemake --cores all results/sky{,-paper}_fvd.json \\
        results/sky-only-{content,difference,carried,levels}_fvd.json
    python benchmarks/switches.py --picture switches.png

FVD and motion are those of each report. `after the first`: motion of steps 2 to the last, against the test clips'.
`detail`: energy of x - blur(x) at the last frame, against the test clips' there (above 1: ringing and grain; below:
blur), and against the sample's own first frame (drift).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vidm.data.store import FrameStore
from vidm.sampling.export import enlarged

EXPERIMENTS = [
    "sky-paper",
    "sky-only-content",
    "sky-only-difference",
    "sky-only-carried",
    "sky-only-levels",
    "sky",
]
SHOWN = (0, 1, 3, 7, 15)  # frames


def detail(frame: np.ndarray) -> float:
    """Mean square of x - blur(x), grey levels, of frames (N, H, W, 3)."""
    x = frame.astype(np.float32)
    blur = sum(np.roll(x, (dy, dx), (1, 2)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)) / 9
    return float(np.square(x - blur)[:, 1:-1, 1:-1].mean())


def later_motion(clips: np.ndarray) -> float:
    """Mean |x_n - x_(n-1)| from the second step on, of clips (N, T, H, W, 3)."""
    return float(np.abs(clips[:, 2:].astype(np.int16) - clips[:, 1:-1]).mean())


def read(path: Path, split: str | None, frames: int) -> np.ndarray:
    with FrameStore(path) as store:
        return np.stack([store.read(i, 0, frames) for i in store.indices(split)])


def picture(rows: dict[str, np.ndarray], path: Path, videos: int, side: int = 64) -> None:
    """A row for each experiment: the same videos, at the frames of SHOWN."""
    margin, gap = 170, 12
    width = videos * (len(SHOWN) * side + gap)
    sheet = Image.new("RGB", (margin + width, 20 + len(rows) * (side + 2)), "white")
    draw = ImageDraw.Draw(sheet)
    for r, (name, clips) in enumerate(rows.items()):
        draw.text((4, 20 + r * (side + 2) + side // 2 - 6), name, fill="black")
        for v in range(videos):
            for c, frame in enumerate(enlarged(clips[v, list(SHOWN)], side)):
                x = margin + v * (len(SHOWN) * side + gap) + c * side
                sheet.paste(Image.fromarray(frame), (x, 20 + r * (side + 2)))
                if r == 0:
                    draw.text((x + 4, 4), f"frame {SHOWN[c]}", fill="black")
    sheet.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="*", default=EXPERIMENTS)
    parser.add_argument("--frames", type=Path, default=Path("data/frames/sky.h5"))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--videos", type=int, default=3, help="in the picture")
    arguments = parser.parse_args()
    real = read(arguments.frames, "test", 16)
    motion, last = later_motion(real), detail(real[:, -1])
    print("| experiment | FVD | motion / test | after the first | detail 15 / test | detail 15 / own 0 |")
    print("| --- | --- | --- | --- | --- | --- |")
    rows = {}
    for name in arguments.experiments:
        path = Path(f"results/{name}_fvd.json")
        if not path.exists():
            print(f"| {name} | not made yet | | | | |")
            continue
        report = json.loads(path.read_text(encoding="utf-8"))
        clips = rows[name] = read(Path(f"results/{name}/samples/samples.h5"), None, 16)
        print(
            f"| {name} | {report['fvd']:.0f} | {report['motion']['samples'] / report['motion']['test']:.2f} "
            f"| {later_motion(clips) / motion:.2f} | {detail(clips[:, -1]) / last:.2f} "
            f"| {detail(clips[:, -1]) / detail(clips[:, 0]):.2f} |"
        )
    if arguments.picture:
        picture(rows, arguments.picture, arguments.videos)


if __name__ == "__main__":
    main()
