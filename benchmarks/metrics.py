"""What measuring costs: the detector against a straightforward loop, a cached side against a computed one, memory.

    python benchmarks/metrics.py speed --threads 2 --rounds 6
    python benchmarks/metrics.py cache --clips 64
    python benchmarks/metrics.py memory --clips 64 2048

speed: variants take turns, so that what else the machine does falls on all of them; medians of wall and CPU seconds
a clip, ratios to the straightforward loop (fp32, contiguous, batches of 8), and how far each one's FVD is from its.
memory: peak resident memory of `vidm fvd` in a process of its own, on small clips, with a stand-in for the network's
time but not for its memory (I3D runs once and its answer is used for all batches).
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from vidm.metrics import clipset, frechet, i3d, sources
from vidm.metrics.features import BATCH, Job, Logits, look_up, one_pass
from vidm.metrics.i3d import I3D, load_i3d
from vidm.metrics.protocol import find, preprocess

STYLEGANV = find("styleganv")


def clips(count: int, seed: int, size: int = 32) -> np.ndarray:
    """Smooth moving pictures, each another: features of white noise would hardly differ."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(size=(count, 3, 5, 6, 6)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=(16, size, size), mode="trilinear")
    return ((smooth * 60 + 128).clamp(0, 255)).permute(0, 2, 3, 4, 1).to(torch.uint8).numpy()


class Straightforward:
    """The detector as one writes it first, on the same weights: contiguous memory, nn.functional for each layer."""

    def __init__(self) -> None:
        self.model = load_i3d().to(memory_format=torch.contiguous_format)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        m = self.model
        x = self.pool(self.unit(x.contiguous(), m.Conv3d_1a_7x7), (1, 3, 3), (1, 2, 2))
        x = self.unit(self.unit(x, m.Conv3d_2b_1x1), m.Conv3d_2c_3x3)
        x = self.pool(x, (1, 3, 3), (1, 2, 2))
        for name, block in m.named_children():
            if name == "Mixed_4b":
                x = self.pool(x, (3, 3, 3), (2, 2, 2))
            if name == "Mixed_5b":
                x = self.pool(x, (2, 2, 2), (2, 2, 2))
            if name.startswith("Mixed"):
                x = torch.cat([self.branch(x, name, branch) for name, branch in block.named_children()], 1)
        return m.Logits["Conv3d_0c_1x1"](F.avg_pool3d(x, (2, 7, 7), 1)).mean((2, 3, 4))

    def branch(self, x: torch.Tensor, name: str, units: torch.nn.ModuleDict) -> torch.Tensor:
        x = self.pool(x, (3, 3, 3), (1, 1, 1)) if name == "Branch_3" else x
        for unit in units.values():
            x = self.unit(x, unit)
        return x

    def unit(self, x: torch.Tensor, unit: torch.nn.Conv3d) -> torch.Tensor:
        x = F.conv3d(self.padded(x, unit.kernel_size, unit.stride), unit.weight, None, unit.stride)
        zero = torch.zeros(x.shape[1])
        return F.batch_norm(x, zero, zero + 1, unit.scale.flatten(), unit.shift.flatten(), eps=0.0).relu()

    def pool(self, x: torch.Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
        return F.max_pool3d(self.padded(x, kernel, stride), kernel, stride)

    def padded(self, x: torch.Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
        sides = [i3d._same(n, k, s) for n, k, s in zip(x.shape[2:], kernel, stride, strict=True)]
        return F.pad(x, [zeros for side in reversed(sides) for zeros in side])


def speed(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    own = BATCH // 16
    variants = {
        "straightforward": (Straightforward(), 8),
        "vidm": (load_i3d(), own),
        "vidm --fast": (load_i3d().fast(), own),
    }
    inputs = [preprocess(clips(8, seed), STYLEGANV) for seed in range(arguments.rounds)]
    wall, used, logits = {}, {}, {}
    with torch.inference_mode():
        for model, _ in variants.values():
            model(inputs[0][:1])  # warms up
        for whole in inputs:
            for name, (model, batch) in variants.items():
                started, cpu = time.perf_counter(), time.process_time()
                found = [model(part) for part in whole.split(batch)]
                wall.setdefault(name, []).append((time.perf_counter() - started) / len(whole))
                used.setdefault(name, []).append((time.process_time() - cpu) / len(whole))
                logits.setdefault(name, []).append(torch.cat(found).numpy())
    print(f"{'variant':17}{'s/clip':>8}{'CPU s':>8}{'ratio':>7}{'CPU':>7}  FVD")
    base = {n: statistics.median(t["straightforward"]) for n, t in (("wall", wall), ("cpu", used))}
    values = {}
    for name in variants:
        half = len(inputs) // 2
        one, two = (np.concatenate(part) for part in (logits[name][:half], logits[name][half:]))
        values[name] = frechet.distance(one, two)
        w, c = statistics.median(wall[name]), statistics.median(used[name])
        off = values[name] / values["straightforward"] - 1
        print(
            f"{name:17}{w:8.3f}{c:8.3f}{base['wall'] / w:7.2f}{base['cpu'] / c:7.2f}  {values[name]:.4f} ({off:+.1e})"
        )


def cache(arguments: argparse.Namespace) -> None:
    """The real side's features, computed and then read."""
    torch.set_num_threads(arguments.threads)
    model = load_i3d()
    with tempfile.TemporaryDirectory() as folder:
        took = []
        for _ in range(2):
            source = sources.from_arrays(clips(arguments.clips, 0), "real")
            started = time.perf_counter()
            cut = clipset.cut(source, STYLEGANV)
            jobs = [Job(cut, list(range(len(cut))), Logits(model, STYLEGANV))]
            look_up(jobs, Path(folder))
            one_pass(jobs, Path(folder), lambda cost, note: None)
            took.append(time.perf_counter() - started)
    print(f"{arguments.clips} clips: computed {took[0]:.2f} s, read {took[1]:.4f} s, ratio {took[0] / took[1]:.0f}")


def memory(arguments: argparse.Namespace) -> None:
    peaks = []
    for count in arguments.clips:
        command = [sys.executable, __file__, "one", "--clips", str(count), "--size", str(arguments.size)]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]))
        print(f"{count} clips of 16 x {arguments.size} x {arguments.size}: peak {peaks[-1] / 1024:.0f} MiB")
    print(f"ratio {peaks[-1] / peaks[0]:.3f}")


def one(arguments: argparse.Namespace) -> None:
    """Peak memory of one measurement from .npy files, in KiB."""
    from vidm.metrics import report

    torch.set_num_threads(1)
    real, seen = I3D.forward, {}

    def once(self: I3D, x: torch.Tensor) -> torch.Tensor:
        if x.shape not in seen:
            seen[x.shape] = real(self, x)
        return seen[x.shape] + x.mean((1, 2, 3, 4))[:, None]

    I3D.forward = once
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.npy" for name in ("real", "fake")]
        shape = (arguments.clips, 16, arguments.size, arguments.size, 3)
        for seed, path in enumerate(paths):
            rng = np.random.default_rng(seed)
            out = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
            del out
            with path.open("r+b") as file:
                file.seek(-int(np.prod(shape)), 2)
                for _ in range(arguments.clips):
                    file.write(rng.integers(0, 256, shape[1:], np.uint8).tobytes())
        report.between(paths[0], [paths[1]], cache=None)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for run in (speed, cache, memory, one):
        command = commands.add_parser(run.__name__)
        command.set_defaults(run=run)
        command.add_argument("--threads", type=int, default=2)
        if run is speed:
            command.add_argument(
                "--rounds", type=int, default=6, help="of 8 clips; half of them are the FVD's real side"
            )
        else:
            many = {"nargs": "+", "default": [64, 2048]} if run is memory else {"default": 32}
            command.add_argument("--clips", type=int, **many)
        if run in (memory, one):
            command.add_argument("--size", type=int, default=64)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
