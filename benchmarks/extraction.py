"""Frames per second from videos into the frame store, beside bare ffmpeg on the same files.

    python benchmarks/extraction.py [--files 6] [--frames 250] [--rounds 5] [--workers 0] [--resize area]

The baseline is ffmpeg's own command with the same filters and one thread each, as many at once as vidm runs, its
frames thrown away (`-f null`); beside it, the same command on one file after the other with the threads that ffmpeg
takes by itself. vidm also probes, hashes files and frames, writes parts and puts the store together.
Both take turns; the ratios are medians over the rounds. That of processor time, children's included, is the one to
read where other programs run beside.
"""

import argparse
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vidm.config import Dataset
from vidm.data.decoding import EXACT, KERNELS, ffmpeg_program
from vidm.data.extract import extract
from vidm.machine import cores

SIZES = ("640x360", "1920x1080")


def videos(folder: Path, size: str, files: int, frames: int) -> None:
    """H.264 with film-like grain, each file another one."""
    folder.mkdir()
    for k in range(files):
        picture = f"testsrc2=size={size}:rate=25:duration={frames / 25},hue=h={40 * k},noise=alls=6:allf=t"
        command = [ffmpeg_program(), "-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", picture, "-c:v", "libx264"]
        subprocess.run([*command, "-preset", "veryfast", str(folder / f"{k}.mp4")], check=True)


def bare(path: Path, side: int, kernel: str, threads: int = 1) -> None:
    short = "min(iw*sar,ih)"
    wide, high = (f"'max({side},round({side}*{length}/{short}))'" for length in ("iw*sar", "ih"))
    cut = f"crop={side}:{side}:trunc((in_w-out_w)/2):trunc((in_h-out_h)/2)"
    filters = f"scale=w={wide}:h={high}:flags={kernel}+{EXACT},format=rgb24,{cut}"
    command = [ffmpeg_program(), "-nostdin", "-loglevel", "error", "-threads", f"{threads}"]
    command += ["-filter_threads", f"{threads}"]
    command += ["-i", str(path), "-an", "-vf", filters, "-fps_mode", "passthrough", "-threads", f"{threads}"]
    subprocess.run([*command, "-pix_fmt", "rgb24", "-f", "null", "-"], check=True)


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds of wall time, and of processor time with that of finished children."""

    def spent() -> float:
        kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        return sum(sum(resource.getrusage(kind)[:2]) for kind in kinds)

    started, before = time.perf_counter(), spent()
    work()
    return time.perf_counter() - started, spent() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=6)
    parser.add_argument("--frames", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="0: one per core")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument(
        "--resize", default="area", help="of vidm; the baseline takes it where it is a kernel, else area"
    )
    options = parser.parse_args()
    workers = min(options.workers or cores(), cores())
    facts = Dataset(raw="data/raw/benchmark", resolution=options.resolution, resize=options.resize)
    kernel = options.resize if options.resize in KERNELS else "area"
    total = options.files * options.frames
    print(f"{options.files} files of {options.frames} frames, {workers} at once, to {options.resolution} pixels")
    with tempfile.TemporaryDirectory() as scratch:
        for size in SIZES:
            raw = Path(scratch) / size
            videos(raw, size, options.files, options.frames)

            def baseline(raw: Path = raw) -> None:
                with ThreadPoolExecutor(workers) as pool:
                    list(pool.map(lambda path: bare(path, options.resolution, kernel), sorted(raw.iterdir())))

            def ours(raw: Path = raw) -> None:
                extract(raw, Path(scratch) / "s.h5", facts, workers=workers)

            def single(raw: Path = raw) -> None:
                for path in sorted(raw.iterdir()):
                    bare(path, options.resolution, kernel, threads=0)

            taken = [(timed(baseline), timed(ours), timed(single)) for _ in range(options.rounds)]
            rates = [total / statistics.median(times[k][0] for times in taken) for k in range(3)]
            print(
                f"{size:10} ffmpeg {rates[0]:.0f} frames/s, one by one {rates[2]:.0f}, vidm {rates[1]:.0f}", flush=True
            )
            for name, k in (("ffmpeg", 0), ("one by one", 2)):
                wall, cpu = (statistics.median(times[k][j] / times[1][j] for times in taken) for j in (0, 1))
                print(f"{'':10} vidm / {name}: {wall:.2f}; of processor time {cpu:.2f}", flush=True)


if __name__ == "__main__":
    main()
