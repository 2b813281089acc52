"""Training, sampling and I3D against the chip's limit and against the straightforward implementation, in one call.

    python benchmarks/gpu.py                               # on a GPU: sky, taichi128, sky256
    python benchmarks/gpu.py --small                       # the same at a small size: what a CPU does by itself
    python benchmarks/gpu.py --networks taichi128 --only train --json gpu.json

First it checks: bf16, compiled and graphed results against fp32 on the same inputs, and stops where they differ by more
than rounding. Then it measures the ceilings (bf16 matrix product, memory), and then each thing and its baselines in
turns. Times are the device's own events on a GPU, the clock on a CPU; medians. Rows are written to --json as they come.

The baseline is the official way: contiguous, PyTorch's default flags (printed), a for-loop AdamW and average, every
coordinate through the whole MLP, 100 ancestral steps that compute everything again. `strict fp32` is the same without
TF32. MFU is counted FLOPs a second over the measured bf16 peak. Sampling starts from given first frames, since the
official code has no content network. Of a chain of 100 steps two frames are measured and scaled to fifteen: what is
made once a video counts more in them than it should, to our disadvantage.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sampling_speed import awake, on_the_whole_grid
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vidm import config, machine
from vidm.config import Experiment
from vidm.diffusion.samplers import Sampler
from vidm.diffusion.schedule import Schedule
from vidm.metrics.i3d import I3D
from vidm.models import trained
from vidm.models.posgn import PosGN
from vidm.models.summary import STATE, kept, on_meta
from vidm.sampling.noise import VideoNoise
from vidm.sampling.rollout import Rollout
from vidm.training.content import content_loss
from vidm.training.motion import motion_loss
from vidm.training.optimisation import ema_model, optimizer_of

OFFICIAL_STEPS, VIDEO = 100, 16
BF16 = 2.0**-8  # rounding of one number; a deep network adds some
LOSS_ROUNDING, OUTPUT_ROUNDING = 4 * BF16, 12 * BF16


class Bench:
    """Device, sizes, and how time is taken."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device = machine.prepare()
        self.gpu = self.device.type == "cuda"
        self.small = arguments.small or not self.gpu
        self.rounds = arguments.rounds or (3 if self.small else 10)
        self.compile = arguments.compile or not self.small
        self.json = arguments.json
        self.found: list[dict] = []
        self.peak, self.bandwidth = 0.0, float("nan")

    def seconds(self, call: Callable[[], object], inner: int = 1) -> float:
        """Of one call."""
        if not self.gpu:
            began = time.perf_counter()
            for _ in range(inner):
                call()
            return (time.perf_counter() - began) / inner
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        for _ in range(inner):
            call()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1000 / inner

    def median(self, call: Callable[[], object], rounds: int | None = None) -> float:
        """Seconds of one call, after a first that is not counted."""
        call()
        return statistics.median(self.seconds(call) for _ in range(rounds or self.rounds))

    def forget(self) -> None:
        """Give back what dropped networks left: memory, graphs, and compiled code, of which torch keeps eight a
        function and then stops.
        """
        torch._dynamo.reset()
        gc.collect()
        if self.gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def row(self, what: str, **values: float | str | None) -> None:
        """Print a line and keep it."""
        self.found.append({"what": what, **values})
        said = "  ".join(f"{key} {_said(value)}" for key, value in values.items() if value is not None)
        print(f"{what:<46}{said}", flush=True)
        if self.json:
            self.json.write_text(json.dumps(self.found, indent=2) + "\n", encoding="utf-8")


def _said(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


@contextmanager
def flags(tf32: bool | None) -> Iterator[None]:
    """Matrix products and convolutions in strict fp32 (False), or in TF32 (True); None: as PyTorch has them."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = cuda.allow_tf32, cudnn.allow_tf32
    if tf32 is not None:
        cuda.allow_tf32 = cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        cuda.allow_tf32, cudnn.allow_tf32 = before


def ceilings(b: Bench) -> None:
    """The bf16 and fp32 matrix product, and a copy."""
    n = 1024 if b.small else 8192
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        x, y = (torch.randn(n, n, device=b.device, dtype=dtype) for _ in range(2))
        torch.mm(x, y)
        rate = 2 * n**3 / min(b.seconds(partial(torch.mm, x, y), 5) for _ in range(b.rounds))
        b.row(f"ceiling: {name} matrix product, {n}", tflops=rate / 1e12)
        b.peak = max(b.peak, rate)  # where there is no bf16, that of fp32
    x = torch.empty(2**24 if b.small else 2**29, device=b.device, dtype=torch.uint8)
    y = x.clone()
    b.bandwidth = 2 * x.numel() / min(b.seconds(partial(y.copy_, x), 5) for _ in range(b.rounds))
    b.row("ceiling: copy", gb_s=b.bandwidth / 1e9)


def shrunk(e: Experiment, size: int, small: bool) -> tuple[Experiment, int]:
    """An experiment's networks, for a CPU an eighth as wide, at 32 pixels."""
    if not small:
        return e, size
    parts = {}
    for part in ("content", "motion"):
        facts = getattr(e, part)
        levels = facts.network.multipliers[:3]
        network = facts.network.model_copy(
            update={"channels": 16, "multipliers": levels, "head_channels": 16, "groups": 8, "attention": (8,)}
        )
        parts[part] = facts.model_copy(update={"network": network})
    return e.model_copy(update=parts), 32


def made(e: Experiment, part: str, size: int, b: Bench, naive: bool = False) -> nn.Module:
    """A network with numbers everywhere, also where a training starts at zero."""
    torch.manual_seed(0)
    network = awake(trained.build(part, getattr(e, part), size, e.frames)).to(b.device)
    if not naive:
        return network.to(memory_format=torch.channels_last)
    for norm in (m for m in network.modules() if isinstance(m, PosGN)):
        norm.modulation = partial(on_the_whole_grid, norm)
    return network


def training_batch(e: Experiment, part: str, size: int, count: int, b: Bench) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    images = ("frame", "noise") if part == "content" else ("first", "previous", "target", "noise", "previous_noise")
    batch = {name: torch.randn(count, 3, size, size, generator=rng).clamp(-1, 1) for name in images}
    batch["t"] = torch.randint(getattr(e, part).diffusion.steps, (count,), generator=rng)
    if part == "motion":
        batch["n"] = torch.randint(1, e.frames, (count,), generator=rng)
        batch["level"] = torch.rand(count, generator=rng)
        if e.motion.target == "warped-difference":
            shape = (count, e.motion.velocity_frames, 3, size, size)
            batch["history"] = torch.randn(shape, generator=rng).clamp(-1, 1)
    return {name: value.to(b.device) for name, value in batch.items()}


def fitting(b: Bench, e: Experiment, part: str, size: int, asked: int) -> int:
    """Items for which the naive step has memory, at most `asked`; whole eights where there are so many.

    fp32 features and state take three quarters of it: gradients of features and the library's own come beside them.
    """
    network, inputs = on_meta(part, e, size)
    state = STATE * sum(p.numel() for p in network.parameters())
    fit = int((0.75 * machine.free_memory(b.device) - state) / kept(network, inputs))
    fit = max(1, min(asked, fit))
    return fit // 8 * 8 or fit


def loss_of(e: Experiment, part: str, b: Bench) -> Callable:
    facts = getattr(e, part)
    if part == "content":
        return content_loss(facts.diffusion, Schedule(facts.diffusion))
    return motion_loss(facts, Schedule(facts.diffusion))


def step_of(network: nn.Module, loss: Callable, batch: dict, facts, precision: str, naive: bool, compiled: bool):
    """One training step as a call: gradients, clipping, AdamW, average."""
    network.train()
    if naive:
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, foreach=False, fused=False)
        average = copy.deepcopy(network).requires_grad_(False)
    else:
        optimizer, average = optimizer_of(network, facts), ema_model(network, facts.ema)
    forward = torch.compile(network, dynamic=False) if compiled else network
    device = next(network.parameters()).device

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with machine.autocast(device, precision):
            value = loss(forward, batch)
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), facts.clip_norm)
        optimizer.step()
        if naive:
            with torch.no_grad():
                for mean, now in zip(average.parameters(), network.parameters(), strict=True):
                    mean.mul_(facts.ema).add_(now, alpha=1 - facts.ema)
        else:
            average.update_parameters(network)
        return value.detach()

    return step


def check_training(b: Bench, e: Experiment, part: str, size: int, batch: dict) -> None:
    """Loss and gradients of the naive network in strict fp32 against ours, fp32 and bf16."""
    loss, found = loss_of(e, part, b), {}
    variants = [("naive", True, "fp32", False), ("fp32", False, "fp32", False), ("bf16", False, "bf16", False)]
    variants += [("compiled", False, "bf16", True)] if b.compile else []
    for name, naive, precision, compiled in variants:
        b.forget()
        network = made(e, part, size, b, naive).eval()
        forward = torch.compile(network, dynamic=False) if compiled else network
        with flags(precision == "bf16"):
            with machine.autocast(b.device, precision):
                value = loss(forward, batch)
            value.backward()
        gradients = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
        found[name] = (float(value.detach()), gradients)
    truth, direction = found["naive"]
    for name, (value, gradients) in found.items():
        cosine = float(nn.functional.cosine_similarity(gradients.double(), direction.double(), dim=0))
        far = abs(value - truth) / abs(truth)
        b.row(f"check: {part} loss, {name}", relative=far, gradients_cosine=cosine)
        limit = (1e-4, 0.9999) if name in ("naive", "fp32") else (LOSS_ROUNDING, 0.98)
        if far > limit[0] or cosine < limit[1]:
            raise SystemExit(f"{part}, {name}: not the same as naive fp32 beyond rounding")


def training(b: Bench, e: Experiment, part: str, size: int, count: int) -> None:
    facts, batch, loss = getattr(e, part).training, training_batch(e, part, size, count, b), loss_of(e, part, b)
    check_training(b, e, part, size, batch)
    network = made(e, part, size, b)
    with FlopCounterMode(display=False) as counter, machine.autocast(b.device, facts.precision):
        loss(network, batch).backward()
    flops = counter.get_total_flops()
    del network
    variants = {
        "naive, default flags": ("fp32", True, False, None),
        "naive, strict fp32": ("fp32", True, False, False),
        "ours, bf16": ("bf16", False, False, True),
    }
    if b.compile:
        variants["ours, bf16, compiled"] = ("bf16", False, True, True)
    rates: dict[str, float] = {}
    for name, (precision, naive, compiled, tf32) in variants.items():
        step = None
        b.forget()
        try:
            with flags(tf32):
                step = step_of(made(e, part, size, b, naive), loss, batch, facts, precision, naive, compiled)
                step()  # the average begins with the second one
                rate = rates[name] = count / b.median(step)
        except torch.OutOfMemoryError:
            b.row(f"train {e.name} {part}: {name}", batch=count, said="out of memory")
            continue
        base = rates.get("naive, default flags")
        b.row(
            f"train {e.name} {part}: {name}",
            batch=count,
            images_s=rate,
            ratio=rate / base if base else None,
            mfu=flops / count * rate / b.peak,
            gib=torch.cuda.max_memory_allocated() / 2**30 if b.gpu else None,
        )


@torch.inference_mode()
def check_sampling(b: Bench, e: Experiment, size: int, count: int) -> None:
    """One call of the motion network: bf16, and compiled (on a GPU a graph, replayed), against naive fp32."""
    b.forget()
    rng = torch.Generator().manual_seed(0)
    images = [torch.randn(count, 3, size, size, generator=rng).clamp(-1, 1).to(b.device) for _ in range(4)]
    x, other, first, previous = images
    t, n = (torch.tensor([k], device=b.device) for k in (e.motion.diffusion.steps // 2, 3))
    with flags(False):
        truth = made(e, "motion", size, b, naive=True).eval()(x, t.expand(count), n.expand(count), first, previous)
        network = made(e, "motion", size, b).eval()
        outputs = {"fp32": network(x, t, n, first, previous)}
    with flags(True), machine.autocast(b.device, "bf16"):
        outputs["bf16"] = network(x, t, n, first, previous).float()
        if b.compile:
            call = torch.compile(network, mode="reduce-overhead", dynamic=False, fullgraph=True)
            # Compiled, recorded, and then replayed: with x, with something else, and with x again.
            replays = [call(v, t, n, first, previous).float().clone() for v in (x, x, x, other, x)]
            outputs["compiled"] = replays[-1]
            if not torch.equal(replays[-1], replays[-3]) or torch.equal(replays[-1], replays[-2]):
                raise SystemExit(f"{e.name}: a replayed graph is not bit-equal")
    for name, output in outputs.items():
        far = float((output - truth).norm() / truth.norm())
        b.row(f"check: {e.name} motion network, {name}", relative=far)
        if far > (1e-4 if name == "fp32" else OUTPUT_ROUNDING):
            raise SystemExit(f"{e.name}, {name}: not the same as naive fp32 beyond rounding")


def sampling(b: Bench, e: Experiment, size: int, count: int) -> None:
    check_sampling(b, e, size, count)
    laptop = config.load().experiment("sky").sampling
    noises = [VideoNoise(0, k, size, 0.0) for k in range(count)]
    first = np.random.default_rng(0).integers(0, 256, (count, 1, size, size, 3), np.uint8)
    naive = naive_video(b, e, size, count)
    b.row(f"sample {e.name}: naive, 100 steps, {VIDEO} frames", videos_s=count / naive, ratio=1.0)
    network = made(e, "motion", size, b).eval()
    for name, sampler, steps in (
        ("default", laptop.sampler, laptop.steps),
        ("official number of steps", "ddpm", OFFICIAL_STEPS),
    ):
        for compiled in (False, True) if b.compile else (False,):
            b.forget()
            few = min(steps, 4) if b.small else steps
            frames = 3 if b.small or steps == OFFICIAL_STEPS else VIDEO
            facts = {"sampler": sampler, "steps": few, "eta": float(sampler == "ddpm")}
            facts |= {"precision": "bf16", "batch": count, "compile": compiled}
            rollout = Rollout(None, network, e.sampling.model_copy(update=facts), b.device)
            with flags(True):  # as machine.set_tf32 has it
                spent = b.median(partial(rollout.videos, noises, frames, given=first), 1 if b.small else 3)
            whole = spent / (frames - 1) * (VIDEO - 1) * steps / few
            b.row(
                f"sample {e.name}: {name}, {steps} {sampler}{', compiled' if compiled else ''}",
                frames_s=count * (VIDEO - 1) / whole,
                videos_s=count / whole,
                ratio=naive / whole,
            )


@torch.inference_mode()
def naive_video(b: Bench, e: Experiment, size: int, count: int) -> float:
    """Seconds of a batch of videos by the official loop, from the median of measured steps."""
    network = made(e, "motion", size, b, naive=True).eval()
    sampler = Sampler(e.motion.diffusion, "ddpm", OFFICIAL_STEPS, 1.0, True)
    x, first = (torch.randn(count, 3, size, size, device=b.device) for _ in range(2))
    t, n = (torch.full((count,), k, device=b.device) for k in (int(sampler.timesteps[0]), 3))
    step = b.median(partial(network, x, t, n, first, first))
    return step * OFFICIAL_STEPS * (VIDEO - 1)


@torch.inference_mode()
def detector(b: Bench) -> None:
    """I3D on clips of 16 frames; random weights, which cost the same."""
    count = 1 if b.small else 32
    clips = torch.randn(count, 3, 9 if b.small else VIDEO, 224, 224, device=b.device).clamp(-1, 1)
    torch.manual_seed(0)
    plain = I3D().to(b.device).eval()
    exact = copy.deepcopy(plain).to(memory_format=torch.channels_last_3d)
    variants = {"contiguous fp32": plain, "ours, fp32": exact, "ours, bf16": copy.deepcopy(exact).fast()}
    truth, base = plain(clips), None
    for name, network in variants.items():
        far = float((network(clips) - truth).norm() / truth.norm())
        if far > (1e-4 if "fp32" in name else OUTPUT_ROUNDING):
            raise SystemExit(f"I3D, {name}: {far:.2e} from fp32")
        rate = count / b.median(partial(network, clips))
        base = base or rate
        b.row(f"I3D: {name}", clips_s=rate, ratio=rate / base, relative=far)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["sky", "taichi128", "sky256"])
    parser.add_argument("--parts", nargs="+", default=["motion"], choices=["content", "motion"], help="to train")
    parser.add_argument("--only", nargs="+", default=["train", "sample", "i3d"], choices=["train", "sample", "i3d"])
    parser.add_argument("--batch", type=int, help="default: the experiment's own, at most 48, if it fits")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--small", action="store_true", help="narrow networks at 32 pixels; always on a CPU")
    parser.add_argument("--compile", action="store_true", help="torch.compile at a small size too")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    b, params = Bench(arguments), config.load()
    print(f"{torch.cuda.get_device_name() if b.gpu else 'CPU'}, torch {torch.__version__}, ", end="")
    print(f"{torch.get_num_threads()} threads; {'small sizes' if b.small else 'the real sizes'}")
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    print(
        f"default flags: matmul.allow_tf32 {cuda.allow_tf32}, cudnn.allow_tf32 {cudnn.allow_tf32}, "
        f"cudnn.benchmark {cudnn.benchmark}, matmul precision {torch.get_float32_matmul_precision()}"
    )
    if not machine.has_bf16(b.device.type):
        print("this device does not compute in bf16: training and sampling called bf16 are fp32")
    ceilings(b)
    for name in arguments.networks:
        b.forget()
        e = params.experiment(name)
        e, size = shrunk(e, params.dataset(e.dataset).resolution, b.small)
        if "train" in arguments.only:
            for part in arguments.parts:
                own = min(48, getattr(e, part).training.batch)
                count = arguments.batch or (2 if b.small else fitting(b, e, part, size, own))
                training(b, e, part, size, count)
        if "sample" in arguments.only:
            sampling(b, e, size, arguments.batch or (2 if b.small else 16))
    if "i3d" in arguments.only:
        b.forget()
        detector(b)


if __name__ == "__main__":
    sys.exit(main())
