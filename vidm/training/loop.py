"""The training loop that content and motion share.

    for each global step s:   batch(s) -> loss -> gradients, clipped -> AdamW -> EMA

What a batch holds is a function of (seed, s) alone (vidm/data/clips.py), and so is what a layer draws by chance: a run
that goes on from a checkpoint does what it would have done. accelerate brings the processes together where there are
several; each has its share of the batch, and gradients are averaged.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vidm.config import Running, Training
from vidm.errors import InputError, Interrupted
from vidm.machine import autocast
from vidm.progress import bar
from vidm.training.checkpoint import Checkpoints, State
from vidm.training.curve import Curve
from vidm.training.interrupt import Asked
from vidm.training.live import Live
from vidm.training.optimisation import ema_model, learning_rate, optimizer_of
from vidm.training.processes import address, parts, together

Batch = dict[str, Tensor]
LOG_EVERY = 10
SCALARS = ("total", "counted", "bad", "seconds", "device_seconds")


@dataclass(frozen=True)
class Task:
    """What is trained. `batches(start)`: this process's share of steps start, start + 1, ...; `loss(network, batch)`:
    a scalar. `check()` is called before each save and raises where the data are no longer what they were.
    `preview(network, path)` draws what the averaged weights make; `snapshot(network, path, step, hours)`
    writes them, with what they cost so far in device hours."""

    name: str
    facts: Training
    seed: int
    batches: Callable[[int], Iterator[Batch]]
    loss: Callable[[nn.Module, Batch], Tensor]
    check: Callable[[], None] = lambda: None
    preview: Callable[[nn.Module, Path], None] | None = None
    snapshot: Callable[[nn.Module, Path, int, float], None] | None = None


@dataclass(frozen=True)
class Fitted:
    """What came out: the averaged network, the curve of its loss, and what it cost. Time is that of the steps that
    count, over all restarts: what was lost between a checkpoint and a kill is not in it."""

    ema: nn.Module
    curve: Curve
    seconds: float
    device_seconds: float


def fit(model: nn.Module, task: Task, running: Running, folder: Path, accelerator: Accelerator) -> Fitted:
    """Train `model` in place, from the newest checkpoint in `folder` on.

    The loss curve is in `folder`/curve.csv. Raises Interrupted after a signal, its state saved; InputError where too
    many steps in a row are not finite.
    """
    facts, device, first = task.facts, accelerator.device, accelerator.is_main_process
    model.to(device, memory_format=torch.channels_last).train()
    ema, optimizer = ema_model(model, facts.ema, facts.ema_warmup), optimizer_of(model, facts)
    loop = {name: torch.zeros((), dtype=torch.float64) for name in SCALARS}
    state, checkpoints = State(model, ema, optimizer, loop), Checkpoints(folder, running.keep)
    curve, live = Curve(folder if first else None), Live(accelerator, folder, facts.steps, LOG_EVERY)
    step = _resume(state, checkpoints, curve, facts.steps, task.name)
    live.open(step)
    network = accelerator.prepare_model(torch.compile(model) if running.compile else model)
    clock, speed, shown = _Clock(), _Clock(), step

    def save() -> bool:
        task.check()
        passed = clock.lap()
        loop["seconds"] += passed
        loop["device_seconds"] += passed * accelerator.num_processes
        try:
            curve.write()
            checkpoints.save(step, state.tensors(), curve.smoothed)
        except OSError as error:
            print(f"vidm: checkpoint of step {step} not saved ({error.strerror or error})", file=sys.stderr)
            return False
        return True

    saved, note = True, ""
    with Asked() as asked, bar(facts.steps, task.name, "steps", done=step) as progress, contextlib.closing(live):
        for batch in task.batches(step):
            torch.manual_seed(address(task.seed, step, accelerator.process_index))

            # Gradients, summed over parts of the batch.
            loss = torch.zeros((), device=device)
            optimizer.zero_grad(set_to_none=True)
            for part, share, last in parts(batch, running.accumulation):
                part = {key: value.to(device, non_blocking=True) for key, value in part.items()}
                with contextlib.nullcontext() if last else accelerator.no_sync(network):
                    with autocast(device, facts.precision):
                        term = share * task.loss(network, part)
                    term.backward()
                loss += term.detach()
            norm = nn.utils.clip_grad_norm_(model.parameters(), facts.clip_norm)
            loss, norm, stop = together(accelerator, loss / accelerator.num_processes, norm, bool(asked.signal))

            # Weights, unless loss or gradients are not finite.
            rate = learning_rate(facts, step)
            if math.isfinite(loss) and math.isfinite(norm):
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
                ema.update_parameters(model)
                loop["total"] += loss
                loop["counted"] += 1
                loop["bad"].zero_()
            else:
                loop["bad"] += 1
                _bad(task.name, step, int(loop["bad"]), running.bad_steps, checkpoints)
            step += 1

            # What people see.
            end = step == facts.steps
            if step % LOG_EVERY == 0 or end:
                more = {"samples_per_second": (step - shown) * facts.batch / speed.lap()} | _memory(device)
                shown = step
                if loop["counted"]:
                    mean = float(loop["total"] / loop["counted"])
                    note = f"{curve.add(step, step * facts.batch, mean, rate)}, {_said(**more)}"
                    live.log(step, end, loss=mean, smoothed=curve.smoothed, lr=rate, samples=step * facts.batch, **more)
                loop["total"].zero_()
                loop["counted"].zero_()
            progress.advance(1, note)
            if first and task.preview and running.preview_steps and step % running.preview_steps == 0:
                picture = folder / "preview" / f"step-{step:09d}.png"
                try:
                    with autocast(device, facts.precision):
                        task.preview(ema.module, picture)
                    live.picture(picture)
                except (OSError, InputError) as error:  # no reason to stop
                    print(f"vidm: {picture}: not drawn ({error})", file=sys.stderr)

            # What is kept.
            if first and task.snapshot and due(step, running.snapshots, facts.steps):
                spent = float(loop["device_seconds"]) + clock.since() * accelerator.num_processes
                path = folder / "snapshots" / checkpoints.path(step).name
                try:
                    task.snapshot(ema.module, path, step, spent / 3600)
                except OSError as error:
                    print(f"vidm: {path}: not written ({error.strerror or error})", file=sys.stderr)
            if first and (stop or end or clock.since() >= 60 * running.checkpoint_minutes):
                saved = save()
            if stop and not end:
                where = f"saved in {folder}; the same command goes on" if saved else "its last checkpoint is older"
                raise Interrupted(f"{task.name}: {asked.signal or 'a signal'} at step {step} of {facts.steps}; {where}")
    return Fitted(ema.module, curve, float(loop["seconds"]), float(loop["device_seconds"]))


def due(step: int, snapshots: int, steps: int) -> bool:
    """Whether one of so many snapshots, evenly spaced over all steps, is of this step. The last is of the last."""
    return step * snapshots // steps > (step - 1) * snapshots // steps


def _resume(state: State, checkpoints: Checkpoints, curve: Curve, last: int, name: str) -> int:
    """The step to go on from: 0, or that of the newest checkpoint, restored."""
    found = checkpoints.newest(last)
    step = 0
    if found is not None:
        step = found[0]
        try:
            state.restore(found[1])
        except (RuntimeError, KeyError, IndexError, ValueError):
            raise InputError(
                f"{checkpoints.path(step)}: made by another version of vidm; remove {checkpoints.folder} to start anew"
            ) from None
        print(f"{name}: goes on at step {step} of {last}, from {checkpoints.folder}", file=sys.stderr)
    newest = max(checkpoints.steps(), default=0)
    curve.cut(step, newest if newest > last else 0)
    return step


class _Clock:
    """Seconds since it was made, or since the last lap."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def since(self) -> float:
        return time.monotonic() - self.began

    def lap(self) -> float:
        passed, self.began = self.since(), time.monotonic()
        return passed


def _memory(device: torch.device) -> dict[str, float]:
    return {"gpu_gib": torch.cuda.max_memory_allocated(device) / 2**30} if device.type == "cuda" else {}


def _said(samples_per_second: float, gpu_gib: float = 0.0) -> str:
    return f"{samples_per_second:.0f} samples/s" + (f", {gpu_gib:.1f} GiB of GPU" if gpu_gib else "")


def _bad(name: str, step: int, row: int, limit: int, checkpoints: Checkpoints) -> None:
    print(
        f"vidm: {name}: loss or gradients of step {step + 1} are not finite; skipped ({row} in a row)", file=sys.stderr
    )
    if row >= limit:
        kept = [s for s in checkpoints.steps() if s <= step]
        where = f"the last good state is {checkpoints.path(kept[-1])}" if kept else "nothing was saved yet"
        raise InputError(
            f"{name}: {row} steps in a row were not finite, up to step {step + 1}; {where}; lower training.lr, or use "
            "precision: fp32"
        )
