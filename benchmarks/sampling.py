"""Quality of samplers on a trained experiment, against evaluations of the network.

    python benchmarks/sampling.py quality sky --plot docs/sampling.png   # each sampler and number of steps
    python benchmarks/sampling.py first sky                # the default with other samplers of the first frame
    python benchmarks/sampling.py correlation sky          # FVD and motion against noise_correlation
    python benchmarks/sampling.py seeds sky --seeds 3      # the default against 100 ancestral steps in fp32

They need the experiment's models and frames. A value is noted in benchmarks/results/ as soon as it is there, and not
computed again. Times are CPU seconds of this process: other programs change them least. Speed against the official
loop is in benchmarks/sampling_speed.py.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from vidm import config, machine
from vidm.data.store import FrameStore
from vidm.diffusion.samplers import Sampler
from vidm.metrics import clipset, frechet, over_time, sources
from vidm.metrics import protocol as protocols
from vidm.metrics.features import Logits
from vidm.metrics.i3d import load_i3d
from vidm.models import trained
from vidm.sampling.noise import VideoNoise, stacked
from vidm.sampling.rollout import Rollout, as_bytes, as_images

NOTES = Path("benchmarks/results/sampling.json")
REAL = 128
# (sampler, eta, steps of a further frame); the first frame has CONTENT steps of the same in all of them.
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
    ("sde-dpm-solver++", 0.0, 8),
    ("sde-dpm-solver++", 0.0, 12),
]
# (sampler, steps) of the first frame.
FIRST = [
    ("dpm-solver++", 25),
    ("sde-dpm-solver++", 25),
    ("ddpm", 25),
    ("ddpm", 100),
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
        with FrameStore(self.frames) as store:
            found = clipset.cut(sources.from_store(store, split), self.rules)
            return np.stack([found.read(k) for k in range(n)])

    def features(self, clips: np.ndarray) -> np.ndarray:
        series = Logits(self.model, self.rules)
        for k, clip in enumerate(clips):
            series.add(k, clip)
        return series.result()

    def __call__(self, clips: np.ndarray) -> dict[str, float]:
        value = frechet.distance(self.real, self.features(clips), self.rules.ddof, self.rules.root)
        frames = torch.stack([over_time.of_clip(torch.from_numpy(clip)) for clip in clips])
        return {"fvd": float(value), "motion": over_time.motion(frames.numpy())}


class Flow:
    """How far a sampler ends from the probability flow's own end, for the same noise.

    Root mean square in grey levels against UniPC with LIMIT steps. Only for samplers without noise of their own.
    """

    def __init__(self, predict, diffusion: config.Diffusion, clip: bool, noise: torch.Tensor, bounded: bool) -> None:
        self.predict, self.diffusion, self.clip, self.noise = predict, diffusion, clip, noise
        self.bounded = bounded

    @cached_property
    def end(self) -> torch.Tensor:
        return self.sampled("unipc", LIMIT)

    @torch.inference_mode()
    def sampled(self, name: str, steps: int) -> torch.Tensor:
        sampler = Sampler(self.diffusion, name, steps, 0.0, self.clip, bounded=self.bounded)
        return sampler(self.predict, self.noise)

    def __call__(self, name: str, steps: int) -> float:
        return float((self.sampled(name, steps) - self.end).square().mean().sqrt() * 127.5)


@torch.inference_mode()
def flows(parts, e: config.Experiment, clips: np.ndarray, n: int = 8) -> dict[str, Flow]:
    """Of frame 0, and of frame n of real clips from their frames 0 and n-1."""
    content, network = parts
    noises = [VideoNoise(0, k, network.size, 0.0) for k in range(len(clips))]
    first, previous = (as_images(clips[:, k], torch.device("cpu")) for k in (0, n - 1))
    where, gap = torch.tensor([n]), min(network.back, n - 1)
    back = as_images(clips[:, n - 1 - gap], torch.device("cpu"))
    z = network.conditions(first, previous, where, back, torch.tensor([gap])).code

    def motion_of(x_t, t):
        return network.predict(x_t, t, where, z, network.residual_of(first, t, where))

    noise = {
        "content": stacked([v.content(0) for v in noises], torch.device("cpu")),
        "motion": stacked([v.motion(n, 0) for v in noises], torch.device("cpu")),
    }
    calls = {"content": (content, content.facts), "motion": (motion_of, network.facts)}
    whole = {"content": True, "motion": network.facts.target == "frame"}
    return {
        part: Flow(f, facts.diffusion, e.sampling.clip, noise[part], whole[part]) for part, (f, facts) in calls.items()
    }


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
    return e.sampling.model_dump(include={"sampler", "content_sampler", "eta", "steps", "content_steps"})


def measured(e, parts, judge, notes, seed, n, **changes) -> dict[str, float]:
    facts = e.sampling.model_copy(update=changes)
    key = json.dumps([e.name, seed, n, changes], sort_keys=True)

    def make():
        clips, seconds = draw(parts, facts, seed, n, e.frames)
        return {**judge(clips), "seconds": seconds / n}

    return notes.once(key, make)


def quality(arguments) -> None:
    """Each sampler and number of steps: distance to the flow's end, FVD, motion, CPU seconds."""
    e, n = config.load().experiment(arguments.experiment), arguments.videos
    parts, notes, judge = networks(e.name), Notes(), Judge(e)
    test = judge.clips("test", n)
    print("distance to the flow's end, grey levels\n")
    distances = {}
    for part, flow in flows(parts, e, test[:4]).items():
        print(f"| {part}: steps | ddim | dpm-solver++ | unipc |\n| --- | --- | --- | --- |")
        for steps in (4, 6, 8, 12, 16, 24):
            row = []
            for name in ("ddim", "dpm-solver++", "unipc"):
                found = notes.once(f"{e.name} flow {part} {name} {steps}", partial(flow, name, steps))
                row.append(f"{found:.2f}")
                distances |= {(name, steps): found} if part == "motion" else {}
            print(f"| {steps} | {' | '.join(row)} |", flush=True)
        print()
    base = notes.once(f"{e.name} floor {n}", lambda: judge(test))
    print(f"N = {n} against {REAL}, seed 0; floor (test clips): FVD {base['fvd']:.0f}, motion {base['motion']:.2f}\n")
    print("| sampler, steps | FVD | motion | CPU s a video |\n| --- | --- | --- | --- |")
    points = {}
    for sampler, eta, steps in SETTINGS[: arguments.settings]:
        changes = {"sampler": sampler, "content_sampler": None, "eta": eta, "steps": steps, "content_steps": CONTENT}
        found = points[sampler, steps] = measured(e, parts, judge, notes, 0, n, **changes)
        row = f"{found['fvd']:.0f} | {found['motion']:.2f} | {found['seconds']:.2f}"
        print(f"| {sampler}, {steps} | {row} |", flush=True)
    if arguments.plot:
        plot(points, distances, base["fvd"], n, arguments.plot)


def first(arguments) -> None:
    """Samplers of the first frame: FVD of standing first frames against those of train clips, and CPU seconds."""
    e, n = config.load().experiment(arguments.experiment), arguments.videos
    parts, notes, judge = networks(e.name), Notes(), Judge(e)
    real = judge.features(standing(judge.clips("train", n)[:, 0], e.frames))
    noises = [VideoNoise(9, k, parts[1].size, 0.0) for k in range(n)]

    def make(sampler: str, steps: int) -> dict[str, float]:
        facts = e.sampling.model_copy(update={"content_sampler": sampler, "content_steps": steps})
        rollout = Rollout(*parts, facts, torch.device("cpu"))
        began = time.process_time()
        frames = [as_bytes(rollout.first_frames(noises[k : k + facts.batch])) for k in range(0, n, facts.batch)]
        seconds = (time.process_time() - began) / n
        fake = judge.features(standing(np.concatenate(frames), e.frames))
        pairs = [(real, fake), *((real[a::2], fake[b::2]) for a in (0, 1) for b in (0, 1))]
        whole, *halves = (float(frechet.distance(*pair, judge.rules.ddof, judge.rules.root)) for pair in pairs)
        return {"fvd": whole, "halves": halves, "seconds": seconds}

    print(f"N = {n} each\n\n| sampler, steps | FVD | of halves | CPU s a frame |\n| --- | --- | --- | --- |")
    for sampler, steps in FIRST:
        found = notes.once(f"{e.name} first {n} {sampler} {steps}", partial(make, sampler, steps))
        halves = f"{min(found['halves']):.0f}-{max(found['halves']):.0f}"
        print(f"| `{sampler}`, {steps} | {found['fvd']:.0f} | {halves} | {found['seconds']:.2f} |", flush=True)


def standing(frames: np.ndarray, length: int) -> np.ndarray:
    """(N, S, S, 3) -> (N, length, S, S, 3)."""
    return np.repeat(frames[:, None], length, axis=1)


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


def plot(points, distances, floor: float, n: int, path: Path) -> None:
    """Distance of a further frame to its flow's end against evaluations; FVD against seconds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    for k, name in enumerate(dict.fromkeys(sampler for sampler, _ in (*distances, *points))):
        own = sorted((steps, d) for (s, steps), d in distances.items() if s == name)
        if own:
            left.plot(*zip(*own, strict=True), "o-", color=f"C{k}", label=name)
        fvd = sorted((p["seconds"], p["fvd"], steps) for (s, steps), p in points.items() if s == name)
        if fvd:
            right.plot(*zip(*(point[:2] for point in fvd), strict=True), "o-", color=f"C{k}", label=name)
        for seconds, value, steps in fvd:  # below, above, further below: the samplers lie close
            place = (0, (-14, 7, -26, 7)[k % 4])
            right.annotate(f"{steps}", (seconds, value), place, textcoords="offset points", ha="center", color=f"C{k}")
    right.axhline(floor, color="grey", linestyle=":", label="floor: test clips")
    left.set(xscale="log", yscale="log", xlabel="evaluations a frame", ylabel="distance to the flow's end, grey levels")
    left.set_xticks(ticks := sorted({steps for _, steps in distances}), map(str, ticks))
    left.minorticks_off()
    top = 1.15 * max(p["fvd"] for p in points.values())
    right.set(xlabel="CPU seconds a video (at the points: steps)", ylabel=f"FVD, N = {n}", ylim=(0, top))
    left.legend()
    right.legend(loc="center", ncols=2)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def seeds(arguments) -> None:
    """The default against 100 ancestral steps in fp32: the same seeds, mean and standard error over them."""
    e, n = config.load().experiment(arguments.experiment), arguments.videos
    parts, notes, judge = networks(e.name), Notes(), Judge(e)
    naive = {
        "sampler": "ddpm",
        "content_sampler": None,
        "eta": 1.0,
        "steps": 100,
        "content_steps": 100,
        "precision": "fp32",
    }
    values = {}
    for name, changes in (("default", default(e)), ("100 ancestral steps, fp32", naive)):
        found = [measured(e, parts, judge, notes, seed, n, **changes)["fvd"] for seed in range(arguments.seeds)]
        values[name] = np.array(found)
        spread = values[name].std(ddof=1) / len(found) ** 0.5 if len(found) > 1 else float("nan")
        print(f"{name}: FVD {values[name].mean():.0f} +- {spread:.0f}, N = {n}, seeds {len(found)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, run in {"quality": quality, "first": first, "correlation": correlation, "seeds": seeds}.items():
        command = commands.add_parser(name, help=run.__doc__.splitlines()[0])
        command.set_defaults(run=run)
        command.add_argument("experiment")
        command.add_argument("--videos", type=int, default=256 if name == "first" else 64)
        if name == "quality":
            command.add_argument("--plot", type=Path)
            command.add_argument("--settings", type=int, default=len(SETTINGS), help="only the first of SETTINGS")
        if name == "seeds":
            command.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
