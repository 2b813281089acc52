"""What the training loop costs beside forward, backward and optimizer step, and what bf16 gains.

    python benchmarks/training.py sky --frames data/frames/sky.h5 --steps 20 --rounds 5

`bare` is forward, backward and AdamW on one and the same batch. `loop` is vidm's own: data, clipping, moving average,
curve, progress, one checkpoint. Variants take turns; medians and ratios of steps/s are printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from vidm import config, machine
from vidm.config import Running
from vidm.data.clips import FrameDraw, TripletDraw, batches
from vidm.data.store import FrameStore
from vidm.diffusion.schedule import Schedule
from vidm.models import trained
from vidm.training.content import content_loss
from vidm.training.loop import Task, fit
from vidm.training.motion import motion_loss
from vidm.training.optimisation import optimizer_of
from vidm.training.processes import accelerator_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", default=["content", "motion"])
    parser.add_argument("--channels", type=int, help="instead of the experiment's")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device = machine.prepare()
    e = config.load(arguments.params).experiment(arguments.experiment)
    with FrameStore(arguments.frames) as store:
        for part in arguments.parts:
            measure(e, part, store, device, arguments)


def measure(e, part: str, store: FrameStore, device: torch.device, arguments: argparse.Namespace) -> None:
    facts = getattr(e, part)
    if arguments.channels:
        facts = facts.model_copy(update={"network": facts.network.model_copy(update={"channels": arguments.channels})})
    steps, diffusion = arguments.steps, facts.diffusion
    if part == "content":
        source, loss = FrameDraw(store, steps=diffusion.steps), content_loss(diffusion, Schedule(diffusion))
    else:
        source, loss = (
            TripletDraw(store, frames=e.frames, steps=diffusion.steps),
            motion_loss(facts, Schedule(diffusion)),
        )
    source.load()
    batch = {k: v.to(device) for k, v in next(batches(source, facts.training.batch, 0, 1)).items()}

    def network():
        made = trained.build(part, facts, store.resolution, e.frames)
        return made.to(device, memory_format=torch.channels_last).train()

    def bare(precision: str) -> float:
        model = network()
        optimizer = optimizer_of(model, facts.training)
        for step in range(steps + 1):
            if step == 1:  # the first one warms up
                began = time.perf_counter()
            with machine.autocast(device, precision):
                value = loss(model, batch)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
        value.item()
        return steps / (time.perf_counter() - began)

    def loop(workers: int) -> float:
        training = facts.training.model_copy(update={"steps": steps + 1})
        began = 0.0

        def timed(start: int):
            nonlocal began
            for k, item in enumerate(batches(source, training.batch, start, steps + 1, workers)):
                if k == 1:
                    began = time.perf_counter()
                yield item

        with tempfile.TemporaryDirectory() as folder:
            task = Task(part, training, 0, timed, loss)
            fit(network(), task, Running(workers=workers), Path(folder), accelerator_of(device))
            return steps / (time.perf_counter() - began)

    variants = {
        "bare": lambda: bare(facts.training.precision),
        "loop, 0 workers": lambda: loop(0),
        "loop, 2 workers": lambda: loop(2),
        "bare fp32": lambda: bare("fp32"),
        "bare bf16": lambda: bare("bf16"),
    }
    found: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(arguments.rounds):
        for name, run in variants.items():
            found[name].append(run())
        print(f"{part}: round {turn + 1} of {arguments.rounds}", file=sys.stderr)
    base = statistics.median(found["bare"])
    print(f"\n{e.name} {part}, batch {facts.training.batch}, {torch.get_num_threads()} threads, {device}")
    for name, rates in found.items():
        print(f"{name:<18}{statistics.median(rates):8.2f} steps/s{statistics.median(rates) / base:8.2f} of bare")


if __name__ == "__main__":
    main()
