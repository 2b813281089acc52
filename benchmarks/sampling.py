"""Sampling: quality against evaluations, and speed against a faithful naive loop.

    python benchmarks/sampling.py quality sky --plot docs/sampling.png   # each sampler and number of steps
    python benchmarks/sampling.py seeds sky --seeds 3      # the default against 100 ancestral steps in fp32
    python benchmarks/sampling.py speed                    # exact and fast mode, equality, memory, flatness
    python benchmarks/sampling.py shards                   # two processes against one

`quality` and `seeds` need the experiment's models and frames. A value is noted in benchmarks/results/ as soon as it is
there, and not computed again. Times are CPU seconds of this process: other programs change them least.
"""

from __future__ import annotations

import json
import time
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
from vidm.sampling.noise import VideoNoise
from vidm.sampling.rollout import Rollout, as_images

NOTES = Path("benchmarks/results/sampling.json")
REAL = 128
# (sampler, eta, steps of a further frame); the first frame has CONTENT steps in all of them.
CONTENT = 25
SETTINGS = [
    ("ddim", 0.0, 8),
    ("unipc", 0.0, 8),
    ("dpm-solver++", 0.0, 8),
    ("unipc", 0.0, 5),
    ("dpm-solver++", 0.0, 5),
    ("ddim", 0.0, 16),
    ("ddim", 0.0, 4),
    ("unipc", 0.0, 12),
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

    Root mean square in grey levels against UniPC with 200 steps. Only for samplers without noise of their own.
    """

    def __init__(self, parts, e: config.Experiment, clips: np.ndarray, n: int = 8) -> None:
        self.motion, self.e, self.n = parts[1], e, n
        self.first, self.previous = (as_images(clips[:, k], torch.device("cpu")) for k in (0, n - 1))
        noise = [VideoNoise(0, k, self.motion.size, 0.0).motion(n, 0) for k in range(len(clips))]
        self.noise = torch.from_numpy(np.stack(noise))
        self.end = self.sampled("unipc", 200)

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
    forced = Forced(parts, e, test[:8])
    print("| sampler | steps | distance to the flow's end, grey levels |\n| --- | --- | --- |")
    for name in ("ddim", "dpm-solver++", "unipc"):
        for steps in (3, 4, 5, 6, 8, 10, 12, 16, 24, 32):
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
