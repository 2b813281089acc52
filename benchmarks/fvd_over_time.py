"""FVD against training time, of an experiment that was trained with `running: {snapshots: N}`.

    python benchmarks/fvd_over_time.py sky64 --plot docs/fvd-over-time.png

Each point has content and motion weights of the same share of their trainings, side by side. It needs runs/ and the
frames, and the clips and values that benchmarks/results/ does not have yet cost some CPU minutes a point. Device hours
are those of both parts.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from sampling import REAL, Judge, Notes, draw
from torch import nn

from vidm import config, machine
from vidm.errors import InputError
from vidm.models import trained


@dataclass(frozen=True)
class Point:
    """Content and motion weights, and what they cost."""

    networks: list[nn.Module]
    notes: list[dict]
    digests: list[str]

    @property
    def hours(self) -> float:
        return sum(notes["device_hours"] for notes in self.notes)

    @property
    def samples(self) -> list[int]:
        return [notes["samples"] for notes in self.notes]


def points(name: str, device: torch.device) -> list[Point]:
    """Pairs of snapshots, in the order of time. Raises InputError where they are not there."""
    found = {}
    for part in ("content", "motion"):
        folders = sorted(Path("runs", name).glob(f"{part}-*/snapshots"))
        if len(folders) != 1:
            raise InputError(f"runs/{name}: {len(folders)} runs of {part} have snapshots; train with running.snapshots")
        found[part] = sorted(folders[0].glob("step-*.safetensors"))
    if len(found["content"]) != len(found["motion"]):
        raise InputError(f"runs/{name}: not as many snapshots of content as of motion")
    made = []
    for pair in zip(found["content"], found["motion"], strict=True):
        loaded = [trained.load(path, part, device) for part, path in zip(found, pair, strict=True)]
        digests = [trained.file_sha256(path)[:16] for path in pair]
        made.append(Point([network for network, _ in loaded], [notes for _, notes in loaded], digests))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment")
    parser.add_argument("--videos", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    device, notes, n = machine.prepare(arguments.seed), Notes(), arguments.videos
    e = config.load().experiment(arguments.experiment)
    pairs, judge = points(e.name, device), Judge(e)
    floor = notes.once(f"{e.name} floor {n}", lambda: judge(judge.clips("test", n)))
    print(f"N = {n} against {REAL}, seed {arguments.seed}; test clips: FVD {floor['fvd']:.0f}\n")
    print("| device hours | samples seen: content, motion | FVD | motion |\n| --- | --- | --- | --- |")
    values = []
    for point in pairs:
        key = f"{e.name} over time {'+'.join(point.digests)} {arguments.seed} {n}"
        found = notes.once(key, lambda p=point: judge(draw(p.networks, e.sampling, arguments.seed, n, e.frames)[0]))
        values.append(found["fvd"])
        seen = ", ".join(f"{samples:,}" for samples in point.samples)
        print(f"| {point.hours:.2f} | {seen} | {found['fvd']:.0f} | {found['motion']:.2f} |", flush=True)
    if arguments.plot:
        plot(pairs, values, floor["fvd"], n, arguments.plot)


def plot(pairs: list[Point], values: list[float], floor: float, n: int, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from vidm import plotting

    plotting.use_style()
    figure, axes = plt.subplots(figsize=(plotting.PAGE * 0.7, 2.6))
    hours = [point.hours for point in pairs]
    axes.plot(hours, values, "o-", label="samples")
    axes.axhline(floor, color="grey", linestyle=":", label="floor: test clips")
    axes.set(xlabel="device hours, content and motion", ylabel=f"FVD, N = {n}", ylim=(0, 1.1 * max(values)))
    axes.set_xlim(0)
    above = axes.secondary_xaxis("top")
    above.set_xticks(hours, [f"{sum(point.samples) / 1000:.0f}k" for point in pairs])
    above.set_xlabel("samples seen, content and motion")
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
