"""What the training loop costs beside forward, backward and optimizer step, and what bf16 gains.

    python benchmarks/training.py sky --frames data/frames/sky.h5 --steps 20 --rounds 5
    python benchmarks/training.py sky --frames data/frames/sky.h5 --channels 64 --variants "bare fp32" "bare bf16"
    python benchmarks/training.py smoke --frames data/frames/smoke.h5 --memory 2000

`bare` is forward, backward and AdamW on one and the same batch. `loop` is vidm's own: data, clipping, moving average,
curves, progress, one checkpoint. Variants take turns; medians of steps/s and of ratios to the `bare` of the same turn
are printed: by the clock, and by the processor time of this process, which other programs do not slow down.
--memory prints this process's memory along that many steps of the loop instead.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from vidm import config, machine
from vidm.config import Running
from vidm.data.clips import FrameDraw, TripletDraw, batches
from vidm.data.store import FrameStore
from vidm.diffusion.schedule import Schedule
from vidm.models import trained
from vidm.training.content import content_loss
from vidm.training.live import tracker
from vidm.training.loop import Task, fit
from vidm.training.motion import motion_loss
from vidm.training.optimisation import optimizer_of
from vidm.training.processes import accelerator_of

VARIANTS = ("bare", "loop, 0 workers", "loop, 2 workers", "bare fp32", "bare bf16")
Rates = tuple[float, float]  # steps a second of the clock, and of processor time


class Watch:
    """Clock and processor time of this process since it was made."""

    def __init__(self) -> None:
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def rates(self, steps: int) -> Rates:
        return steps / (time.perf_counter() - self.wall), steps / (time.process_time() - self.processor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", default=["content", "motion"])
    parser.add_argument("--channels", type=int, help="instead of the experiment's")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--memory", type=int, metavar="STEPS")
    arguments = parser.parse_args()
    device = machine.prepare()
    if not machine.has_bf16(device.type):
        print("this device does not compute in bf16: variants called bf16 are fp32", file=sys.stderr)
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
        source, loss = FrameDraw(store, levels=diffusion.steps), content_loss(diffusion, Schedule(diffusion))
    else:
        source, loss = (
            TripletDraw(store, e.frames, levels=diffusion.steps, history=facts.velocity_frames),
            motion_loss(facts, Schedule(diffusion)),
        )
    source.load()
    batch = {k: v.to(device) for k, v in next(batches(source, facts.training.batch, 0, 1)).items()}

    def network():
        made = trained.build(part, facts, store.resolution, e.frames)
        return made.to(device, memory_format=torch.channels_last).train()

    def bare(precision: str) -> Rates:
        model = network()
        optimizer = optimizer_of(model, facts.training)
        for step in range(steps + 1):
            if step == 1:  # the first one warms up
                watch = Watch()
            with machine.autocast(device, precision):
                value = loss(model, batch)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
        value.item()
        return watch.rates(steps)

    def loop(workers: int, steps: int = steps, each: Callable[[int], None] = lambda step: None) -> Rates:
        training = facts.training.model_copy(update={"steps": steps + 1})
        watch = None

        def timed(start: int):
            nonlocal watch
            for k, item in enumerate(batches(source, training.batch, start, steps + 1, workers)):
                watch = Watch() if k == 1 else watch
                each(k)
                yield item

        with tempfile.TemporaryDirectory() as folder:
            task = Task(part, training, 0, timed, loss)
            fit(network(), task, Running(workers=workers), Path(folder), accelerator_of(device, log_with=tracker()))
            return watch.rates(steps)

    if arguments.memory:
        seen: dict[int, float] = {}
        every = max(1, arguments.memory // 10)
        loop(0, arguments.memory, lambda step: seen.update({step: resident()} if step % every == 0 else {}))
        print(f"\n{e.name} {part}, batch {facts.training.batch}: memory of this process, MiB")
        print("\n".join(f"step {step:>6}{mib:10.1f}" for step, mib in seen.items()))
        return

    variants = {
        "bare": lambda: bare(facts.training.precision),
        "loop, 0 workers": lambda: loop(0),
        "loop, 2 workers": lambda: loop(2),
        "bare fp32": lambda: bare("fp32"),
        "bare bf16": lambda: bare("bf16"),
    }
    found: dict[str, list[Rates]] = {name: [] for name in VARIANTS if name in arguments.variants}
    for turn in range(arguments.rounds):
        for name, rates in found.items():
            rates.append(variants[name]())
        print(f"{part}: round {turn + 1} of {arguments.rounds}", file=sys.stderr)
    first = next(iter(found))
    print(f"\n{e.name} {part}, {facts.network.channels} channels, batch {facts.training.batch}, ", end="")
    print(f"{torch.get_num_threads()} threads, {device}; ratios to {first}: by the clock, by processor time")
    for name, rates in found.items():
        ratios = [
            statistics.median(mine[k] / base[k] for mine, base in zip(rates, found[first], strict=True)) for k in (0, 1)
        ]
        print(f"{name:<18}{statistics.median(r[0] for r in rates):8.2f} steps/s{ratios[0]:8.2f}{ratios[1]:8.2f}")


def resident() -> float:
    """MiB of memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
