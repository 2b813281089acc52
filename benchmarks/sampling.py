"""Sampling: quality against evaluations, and speed against a faithful naive loop.

    python benchmarks/sampling.py quality sky --plot docs/sampling.png   # each sampler and number of steps
    python benchmarks/sampling.py correlation sky          # FVD and motion against noise_correlation
    python benchmarks/sampling.py seeds sky --seeds 3      # the default against 100 ancestral steps in fp32
    python benchmarks/sampling.py speed                    # exact and fast mode against the naive loop
    python benchmarks/sampling.py loop                     # a whole video, naive and exact: equal pixels
    python benchmarks/sampling.py peak                     # peak memory
    python benchmarks/sampling.py shards sky               # two processes against one, and cost by number of videos

`quality` and `seeds` need the experiment's models and frames. A value is noted in benchmarks/results/ as soon as it is
there, and not computed again. Times are CPU seconds of this process: other programs change them least.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from vidm import config, machine
from vidm.diffusion.samplers import Sampler
from vidm.metrics import clipset
from vidm.metrics import protocol as protocols
from vidm.metrics.features import Extractor, distance, motion
from vidm.metrics.i3d import load_i3d
from vidm.models import trained
from vidm.models.motion import MotionNetwork
from vidm.models.posgn import PosGN, Tables, unit
from vidm.sampling.clock import Clock
from vidm.sampling.conditions import Residuals
from vidm.sampling.noise import VideoNoise, stacked
from vidm.sampling.rollout import Batch, Rollout, as_bytes, as_images

NOTES = Path("benchmarks/results/sampling.json")
REAL = 128
# (sampler, eta, steps of a further frame); the first frame has CONTENT steps in all of them.
CONTENT = 25
LIMIT = 80  # steps that stand for infinitely many
SETTINGS = [
    ("ddim", 0.0, 8),
    ("dpm-solver++", 0.0, 8),
    ("dpm-solver++", 0.0, 6),
    ("unipc", 0.0, 8),
    ("dpm-solver++", 0.0, 4),
    ("ddim", 0.0, 16),
    ("unipc", 0.0, 6),
    ("ddim", 0.0, 4),
    ("dpm-solver++", 0.0, 12),
    ("ddpm", 1.0, 25),
]


class Notes:
    """{key: value} on disk."""

    def __init__(self, path: Path = NOTES) -> None:
        self.path = path
        self.known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def once(self, key: str, make):
        if key not in self.known:
            self.known[key] = make()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.known, indent=1), encoding="utf-8")
        return self.known[key]


class Judge:
    """FVD and motion of arrays of videos against REAL train clips, by the experiment's first protocol."""

    def __init__(self, e: config.Experiment) -> None:
        self.rules = protocols.find(e.metrics.protocols[0])
        self.model = load_i3d(Path("data/weights/i3d.safetensors"), "cpu", eps=self.rules.batch_norm_eps)
        self.frames = Path(f"data/frames/{e.dataset}.h5")
        kept = NOTES.parent / f"{e.dataset}-train-{REAL}.npy"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.save(kept, self.features(self.clips("train", REAL)))
        self.real = np.load(kept)

    def clips(self, split: str, n: int) -> np.ndarray:
        found = clipset.open_set(self.frames, self.rules, split)
        return np.stack([found.read(k) for k in range(n)])

    def features(self, clips: np.ndarray) -> np.ndarray:
        extractor = Extractor(self.model, self.rules)
        for clip in clips:
            extractor.add("x", clip)
        return extractor.features("x")

    def __call__(self, clips: np.ndarray) -> dict[str, float]:
        value = distance(self.real, self.features(clips), self.rules)
        return {"fvd": float(value), "motion": float(np.mean([motion(c) for c in clips]))}


class Forced:
    """How far a sampler ends from the probability flow's own end: frame 8 of real clips from their frames 0 and 7.

    Root mean square in grey levels against UniPC with LIMIT steps. Only for samplers without noise of their own.
    """

    def __init__(self, parts, e: config.Experiment, clips: np.ndarray, n: int = 8) -> None:
        self.motion, self.e, self.n = parts[1], e, n
        self.first, self.previous = (as_images(clips[:, k], torch.device("cpu")) for k in (0, n - 1))
        noise = [VideoNoise(0, k, self.motion.size, 0.0).motion(n, 0) for k in range(len(clips))]
        self.noise = torch.from_numpy(np.stack(noise))

    @cached_property
    def end(self) -> torch.Tensor:
        return self.sampled("unipc", LIMIT)

    @torch.inference_mode()
    def sampled(self, name: str, steps: int) -> torch.Tensor:
        network, where = self.motion, torch.tensor([self.n])
        z = network.motion_code(self.first, self.previous)

        def predict(x_t, t):
            return network.predict(x_t, t, where, z, network.residual_of(self.first, t, where))

        return Sampler(network.facts.diffusion, name, steps, 0.0, self.e.sampling.clip)(predict, self.noise)

    def __call__(self, name: str, steps: int) -> float:
        return float((self.sampled(name, steps) - self.end).square().mean().sqrt() * 127.5)


def networks(name: str):
    device = machine.prepare()
    return [trained.load(Path(f"models/{name}/{part}.safetensors"), part, device)[0] for part in ("content", "motion")]


def draw(parts, facts: config.Sampling, seed: int, n: int, frames: int) -> tuple[np.ndarray, float]:
    """Videos 0..n-1 of a seed, and the CPU seconds that they took."""
    rollout = Rollout(*parts, facts, torch.device("cpu"))
    noises = [VideoNoise(seed, k, parts[1].size, facts.noise_correlation) for k in range(n)]
    began = time.process_time()
    made = [rollout.videos(noises[k : k + facts.group], frames) for k in range(0, n, facts.group)]
    return np.concatenate(made), time.process_time() - began


def default(e) -> dict[str, object]:
    """The experiment's own sampler, said in full: a noted value is of these."""
    return e.sampling.model_dump(include={"sampler", "eta", "steps", "content_steps"})


def measured(e, parts, judge, notes, seed, n, **changes) -> dict[str, float]:
    facts = e.sampling.model_copy(update=changes)
    key = json.dumps([e.name, seed, n, changes], sort_keys=True)

    def make():
        clips, seconds = draw(parts, facts, seed, n, e.frames)
        return {**judge(clips), "seconds": seconds / n}

    return notes.once(key, make)


def quality(arguments) -> None:
    e, n = config.load().experiment(arguments.experiment), arguments.videos
    parts, notes, judge = networks(e.name), Notes(), Judge(e)
    test = judge.clips("test", n)
    forced = Forced(parts, e, test[:4])
    print("| sampler | steps | distance to the flow's end, grey levels |\n| --- | --- | --- |")
    for name in ("ddim", "dpm-solver++", "unipc"):
        for steps in (4, 6, 8, 12, 16):
            error = notes.once(f"{e.name} forced {name} {steps}", lambda name=name, steps=steps: forced(name, steps))
            print(f"| {name} | {steps} | {error:.2f} |", flush=True)
    base = notes.once(f"{e.name} floor {n}", lambda: judge(test))
    print(f"\nN = {n} against {REAL}, seed 0; floor (test clips): FVD {base['fvd']:.0f}, motion {base['motion']:.2f}\n")
    print("| sampler, steps | FVD | motion | CPU s a video |\n| --- | --- | --- | --- |")
    points = {}
    for sampler, eta, steps in SETTINGS[: arguments.settings]:
        changes = {"sampler": sampler, "eta": eta, "steps": steps, "content_steps": CONTENT}
        found = points[sampler, steps] = measured(e, parts, judge, notes, 0, n, **changes)
        row = f"{found['fvd']:.0f} | {found['motion']:.2f} | {found['seconds']:.2f}"
        print(f"| {sampler}, {steps} | {row} |", flush=True)
    if arguments.plot:
        plot(points, base["fvd"], n, arguments.plot)


def correlation(arguments) -> None:
    """FVD and motion against the correlation of the initial noise between frames, with the default sampler."""
    e, n = config.load().experiment(arguments.experiment), arguments.videos
    parts, notes, judge = networks(e.name), Notes(), Judge(e)
    base = notes.once(f"{e.name} floor {n}", lambda: judge(judge.clips("test", n)))
    print(f"N = {n} against {REAL}, seed 0; test clips: FVD {base['fvd']:.0f}, motion {base['motion']:.2f}\n")
    print("| noise_correlation | FVD | motion |\n| --- | --- | --- |")
    for value in (0.0, 0.5, 0.8, 0.9, 0.95, 1.0):
        found = measured(e, parts, judge, notes, 0, n, **default(e), noise_correlation=value)
        print(f"| {value} | {found['fvd']:.0f} | {found['motion']:.2f} |", flush=True)


def plot(points, floor: float, n: int, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for sampler in dict.fromkeys(s for s, _ in points):
        own = sorted((k, p) for (s, k), p in points.items() if s == sampler)
        fvd = [p["fvd"] for _, p in own]
        axes[0].plot([k for k, _ in own], fvd, "o-", label=sampler)
        axes[1].plot([p["seconds"] for _, p in own], fvd, "o-", label=sampler)
    for axis, label in zip(axes, ("evaluations a frame", "CPU seconds a video"), strict=True):
        axis.axhline(floor, color="grey", linestyle=":", label="floor")
        axis.set(xscale="log", xlabel=label)
    axes[0].set(ylabel=f"FVD, N = {n}")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def seeds(arguments) -> None:
    """The default against 100 ancestral steps in fp32: the same seeds, mean and standard error over them."""
    e, n = config.load().experiment(arguments.experiment), arguments.videos
    parts, notes, judge = networks(e.name), Notes(), Judge(e)
    naive = {"sampler": "ddpm", "eta": 1.0, "steps": 100, "content_steps": 100, "precision": "fp32"}
    values = {}
    for name, changes in (("default", default(e)), ("100 ancestral steps, fp32", naive)):
        found = [measured(e, parts, judge, notes, seed, n, **changes)["fvd"] for seed in range(arguments.seeds)]
        values[name] = np.array(found)
        spread = values[name].std(ddof=1) / len(found) ** 0.5 if len(found) > 1 else float("nan")
        print(f"{name}: FVD {values[name].mean():.0f} +- {spread:.0f}, N = {n}, seeds {len(found)}", flush=True)


# Speed: one network with random weights, 64 channels at 64 pixels, in the paper's form.

NETWORK = config.Network(channels=64, multipliers=(1, 1, 2, 2), blocks=2, attention=(16,), head_channels=64)
SIZE, FRAMES, BATCH, STEPS = 64, 16, 4, 100


def network() -> MotionNetwork:
    torch.manual_seed(0)
    made = MotionNetwork(config.Motion(network=NETWORK, spynet="none"), SIZE, FRAMES).eval()
    for name, parameter in made.named_parameters():
        if parameter.ndim == 4 and not parameter.any():  # what a training starts at zero
            torch.nn.init.normal_(parameter, std=0.02)
        if name.startswith("spynet.levels") and "convs.4" in name:  # flows of a few pixels
            torch.nn.init.normal_(parameter, std=0.02)
    return made


def on_the_whole_grid(norm: PosGN, t: torch.Tensor, n: torch.Tensor, height: int, width: int):
    """PosGN's scale and shift as the official code makes them: the grid of (t, n, h, w) through the MLP, per item."""
    h, w = unit(torch.arange(height), height), unit(torch.arange(width), width)
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
        batch = Batch(noises, None, first, previous)
        self.rollout.next_frame([batch], n, n, self.residuals)
        return batch.previous

    def video(self, noises, first, frames: int) -> dict[str, float]:
        """Seconds of a whole video of FRAMES frames and `self.whole` steps from `frames` measured ones."""
        self.residuals.kept.clear()
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
    z = exact.rollout.motion.motion_code(first, first)
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
            each = sum(s[part] for part in ("unet", "coordinates", "scheduler")) / 4
            rows[name].append((FRAMES - 1) * (s["spynet"] / 2 + steps * each) + steps * s["encoder"] / 2)
    middle = {name: float(np.median(values)) for name, values in rows.items()}
    about = f"{BATCH} videos of {FRAMES} frames, {SIZE} pixels, {torch.get_num_threads()} thread"
    print(f"{about}; CPU s from the median of {arguments.repeats} interleaved measurements")
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
        content, motion = networks(e.name)
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
    runs = {"quality": quality, "correlation": correlation, "seeds": seeds, "speed": speed, "loop": loop, "peak": peak}
    for name, run in runs.items():
        command = commands.add_parser(name, help=(run.__doc__ or "FVD and distance for each sampler").splitlines()[0])
        command.set_defaults(run=run)
        if name in ("quality", "correlation", "seeds"):
            command.add_argument("experiment")
            command.add_argument("--videos", type=int, default=64)
        if name == "quality":
            command.add_argument("--plot", type=Path)
            command.add_argument("--settings", type=int, default=len(SETTINGS), help="only the first of SETTINGS")
        if name == "seeds":
            command.add_argument("--seeds", type=int, default=3)
        if name == "speed":
            command.add_argument("--repeats", type=int, default=5)
        if name == "loop":
            command.add_argument("--steps", type=int, default=STEPS)
        if name == "peak":
            command.add_argument("--mode", default="")
    command = commands.add_parser("shards", help=shards.__doc__.splitlines()[0])
    command.set_defaults(run=shards)
    command.add_argument("experiment")
    command.add_argument("--videos", type=int, default=16)
    command.add_argument("--repeats", type=int, default=3)
    command.add_argument("--videos-from", type=int)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
