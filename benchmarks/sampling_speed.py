"""Speed of sampling: one network with random weights in the paper's form, 64 channels at 64 pixels, batch 4.

    python benchmarks/sampling_speed.py speed              # exact and fast mode against the naive loop
    python benchmarks/sampling_speed.py loop               # a whole video, naive and exact: equal pixels
    python benchmarks/sampling_speed.py peak               # peak memory
    python benchmarks/sampling_speed.py shards sky         # two processes against one, and cost by number of videos

The naive loop is the official one: SpyNet, encoder and coordinates again at each step, for each item, in fp32.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from vidm import config, machine
from vidm.diffusion.samplers import Sampler
from vidm.models import trained
from vidm.models.motion import MotionNetwork
from vidm.models.posgn import PosGN, Tables, unit
from vidm.sampling.clock import Clock
from vidm.sampling.conditions import Residuals
from vidm.sampling.noise import VideoNoise, stacked
from vidm.sampling.rollout import Batch, Rollout, as_bytes

NETWORK = config.Network(channels=64, multipliers=(1, 1, 2, 2), blocks=2, attention=(16,), head_channels=64)
SIZE, FRAMES, BATCH, STEPS = 64, 16, 4, 100
IN_FLIGHT = 8  # videos, of which two batches share coordinate tables


def network() -> MotionNetwork:
    torch.manual_seed(0)
    return awake(MotionNetwork(config.Motion(network=NETWORK, spynet="none"), SIZE, FRAMES).eval())


def awake(made: torch.nn.Module) -> torch.nn.Module:
    """The network with numbers where a training starts at zero, and flows of a few pixels."""
    for name, parameter in made.named_parameters():
        if parameter.ndim == 4 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
        if name.startswith("spynet.levels") and "convs.4" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return made


def on_the_whole_grid(norm: PosGN, t: torch.Tensor, n: torch.Tensor, height: int, width: int):
    """PosGN's scale and shift as the official code makes them: the grid of (t, n, h, w) through the MLP, per item."""
    h, w = (unit(torch.arange(size, device=t.device), size) for size in (height, width))
    shape = (len(t), height, width)
    grid = torch.stack(
        [
            unit(t, norm.steps).view(-1, 1, 1).expand(shape),
            unit(n, norm.frames).view(-1, 1, 1).expand(shape),
            h.view(1, -1, 1).expand(shape),
            w.view(1, 1, -1).expand(shape),
        ],
        dim=-1,
    )
    y = norm.third(torch.nn.functional.silu(norm.second(torch.sin(norm.first(grid)))))
    return y.permute(0, 3, 1, 2).chunk(2, dim=1)


class Naive:
    """The official loop: everything again at each step, for each item; fp32, contiguous, ancestral."""

    def __init__(self, motion: MotionNetwork, steps: int) -> None:
        self.motion, self.sampler = motion.to(memory_format=torch.contiguous_format), None
        self.sampler = Sampler(motion.facts.diffusion, "ddpm", steps, 1.0, True)
        for norm in (m for m in self.motion.modules() if isinstance(m, PosGN)):
            norm.modulation = partial(on_the_whole_grid, norm)

    def step(self, x_t, t, n: int, first, previous):
        items = len(x_t)
        return self.motion(x_t, t.expand(items), torch.full((items,), n), first, previous)

    @torch.inference_mode()
    def frame(self, noises, n: int, first, previous):
        noise = stacked([v.motion(n, self.sampler.draws) for v in noises], torch.device("cpu"))
        return self.sampler(lambda x, t: self.step(x, t, n, first, previous), noise)


class Ours:
    """The rollout's frames, and the CPU seconds of their parts."""

    def __init__(self, motion: MotionNetwork, sampler: str, steps: int, precision: str) -> None:
        motion = motion.to(memory_format=torch.channels_last)
        facts = config.Sampling(sampler=sampler, steps=steps, eta=0.0, precision=precision, batch=BATCH)
        self.clock = Clock(torch.device("cpu"), time.process_time)
        self.rollout = Rollout(None, motion, facts, torch.device("cpu"), clock=self.clock)
        self.residuals = Residuals(motion, self.rollout.cache, self.clock)

    @torch.inference_mode()
    def frame(self, noises, n: int, first, previous):
        batch = Batch(noises, None, first, [previous])
        self.rollout.next_frame([batch], n, n, self.residuals)
        return batch.recent[0]

    def video(self, noises, first, frames: int) -> dict[str, float]:
        """CPU seconds by part of frames 1 .. frames-1."""
        self.residuals.kept.clear()
        self.residuals.bytes = 0
        self.clock.seconds.clear()
        previous = first
        for n in range(1, frames):
            previous = self.frame(noises, n, first, previous)
        return dict(self.clock.seconds)


def start(batch: int):
    rng = np.random.default_rng(0)
    noises = [VideoNoise(0, k, SIZE, 0.0) for k in range(batch)]
    coarse = torch.from_numpy(rng.standard_normal((batch, 3, 8, 8), dtype=np.float32))
    first = torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic").clamp(-1, 1)
    return noises, first


@torch.inference_mode()
def speed(arguments) -> None:
    """Seconds of a whole video from medians of measured steps: a naive video here takes half an hour."""
    laptop = config.load().experiment("sky").sampling
    noises, first = start(BATCH)
    naive = Naive(network(), STEPS)
    exact = Ours(network(), "ddpm", 2, "fp32")
    fast = Ours(network(), laptop.sampler, 2, "bf16")
    t, n = torch.tensor([500]), 3
    x_t = torch.from_numpy(noises[0].motion(1, 0)).expand(BATCH, -1, -1, -1)
    z = exact.rollout.motion.conditions(first, first, torch.tensor([1])).code
    r = exact.rollout.motion.residual_of(first, t, torch.tensor([n]))
    ours = exact.rollout.motion.predict(x_t, t, torch.tensor([n]), z, r, None, Tables())
    print(f"a teacher-forced step: {(naive.step(x_t, t, n, first, first) - ours).abs().max():.1e} apart", flush=True)
    rows: dict[str, list[float]] = {"naive": [], "exact": [], "fast": []}
    for _ in range(arguments.repeats):
        began = time.process_time()
        naive.step(x_t, t, n, first, first)
        rows["naive"].append((time.process_time() - began) * (FRAMES - 1) * STEPS)
        for name, loop, steps in (("exact", exact, STEPS), ("fast", fast, laptop.steps)):
            # Two frames of two steps: SpyNet twice, the encoder twice (in the first), the rest four times.
            s = loop.video(noises, first, 3)
            each = (s["unet"] + s["scheduler"] + s["coordinates"] * BATCH / IN_FLIGHT) / 4
            rows[name].append((FRAMES - 1) * (s["spynet"] / 2 + steps * each) + steps * s["encoder"] / 2)
    middle = {name: float(np.median(values)) for name, values in rows.items()}
    about = (
        f"{BATCH} videos, of {IN_FLIGHT} in flight, {FRAMES} frames, {SIZE} pixels, {torch.get_num_threads()} thread"
    )
    print(f"{about}; CPU s from the median of {arguments.repeats} interleaved measurements")
    kept = exact.residuals.bytes / 2 * STEPS * IN_FLIGHT / BATCH  # two steps were measured
    print(f"residual features of all {STEPS} steps and videos in flight: {kept / 1e9:.1f} GB")
    for name, what in (
        ("naive", f"{STEPS} ancestral steps, fp32, everything again"),
        ("exact", f"{STEPS} ancestral steps, fp32"),
        ("fast", f"{laptop.steps} steps of {laptop.sampler}, bf16"),
    ):
        print(f"{name:<6} {middle[name]:>8.0f} s  {middle['naive'] / middle[name]:>6.2f} x  {what}", flush=True)


@torch.inference_mode()
def loop(arguments) -> None:
    """A video in a closed loop, naive and exact: how many pixels are within one grey level."""
    noises, first = start(1)
    naive, exact = Naive(network(), arguments.steps), Ours(network(), "ddpm", arguments.steps, "fp32")
    a = b = first
    near = []
    for n in range(1, FRAMES):
        a, b = naive.frame(noises, n, first, a), exact.frame(noises, n, first, b)
        near.append(float(np.mean(np.abs(as_bytes(a).astype(int) - as_bytes(b)) <= 1)))
        print(f"frame {n}: {near[-1]:.4%} of the pixels within one grey level", flush=True)
    print(f"{arguments.steps} steps: {np.mean(near):.4%} of all")


def peak(arguments) -> None:
    """Peak memory of a process that samples two frames of two steps, naive and ours."""
    if not arguments.mode:
        for mode in ("nothing", "naive", "exact"):
            command = [sys.executable, __file__, "peak", "--mode", mode]
            print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), flush=True)
        return
    noises, first = start(BATCH)
    motion, kept = network(), 0
    if arguments.mode == "naive":
        made = Naive(motion, 2)
    elif arguments.mode == "exact":
        made = Ours(motion, "ddpm", 2, "fp32")
    for n in (1, 2) if arguments.mode != "nothing" else ():
        made.frame(noises, n, first, first)
    if arguments.mode == "exact":
        kept = made.residuals.bytes
    top = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"{arguments.mode}: peak {top:.0f} MB, of which residual features kept: {kept / 1e6:.0f} MB")


def shards(arguments) -> None:
    """Wall time: two processes with one thread each, against one that makes the same videos; and cost by number."""
    if arguments.videos_from is not None:
        e = config.load().experiment(arguments.experiment)
        facts = e.sampling.model_copy(update={"batch": 4, "group": 8})
        device = machine.prepare()
        files = [(part, Path(f"models/{e.name}/{part}.safetensors")) for part in ("content", "motion")]
        content, motion = (trained.load(path, part, device)[0] for part, path in files)
        rollout = Rollout(content, motion, facts, torch.device("cpu"))
        noises = [VideoNoise(0, arguments.videos_from + k, motion.size, 0.9) for k in range(arguments.videos)]
        input("ready")  # loading is not timed
        began = time.process_time()
        for k in range(0, len(noises), facts.group):
            rollout.videos(noises[k : k + facts.group], e.frames)
        print(time.process_time() - began)
        return
    n, ratios, costs = arguments.videos, [], {}
    for _ in range(arguments.repeats):
        one, cost = together(arguments.experiment, [(0, n)])
        two, _ = together(arguments.experiment, [(0, n // 2), (n // 2, n // 2)])
        _, less = together(arguments.experiment, [(0, n // 2)])
        ratios.append(one / two)
        costs.setdefault(n, []).append(cost / n)
        costs.setdefault(n // 2, []).append(less / (n // 2))
    print(f"two processes: {np.median(ratios):.2f} times one, {n} videos, {arguments.repeats} times")
    for k, values in sorted(costs.items()):
        print(f"{k} videos: {np.median(values):.2f} CPU s each")


def together(experiment: str, parts: list[tuple[int, int]]) -> tuple[float, float]:
    """(wall seconds, CPU seconds of all) of processes that make `count` videos from `start` on, at once."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = []
    for first, count in parts:
        words = ["shards", experiment, "--videos", str(count), "--videos-from", str(first)]
        command = [sys.executable, __file__, *words]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=environment, **pipes))
    for process in started:
        process.stdout.read(len("ready"))
    began = time.perf_counter()
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    cpu = sum(float(process.stdout.readline()) for process in started)
    wall = time.perf_counter() - began
    for process in started:
        process.communicate()
    return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, run in {"speed": speed, "loop": loop, "peak": peak, "shards": shards}.items():
        command = commands.add_parser(name, help=run.__doc__.splitlines()[0])
        command.set_defaults(run=run)
        if name == "speed":
            command.add_argument("--repeats", type=int, default=5)
        if name == "loop":
            command.add_argument("--steps", type=int, default=STEPS)
        if name == "peak":
            command.add_argument("--mode", default="")
        if name == "shards":
            command.add_argument("experiment")
            command.add_argument("--videos", type=int, default=16)
            command.add_argument("--repeats", type=int, default=3)
            command.add_argument("--videos-from", type=int)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
