"""SpyNet from nothing, on pictures with known flow: coarse to fine, as the original was trained.

    L = sum over levels l of mean |flow_l - truth_l| + w mean |warp(supporting_l, flow_l) - reference_l|

Flows are in pixels of their level, pictures as SpyNet normalises them. w grows from zero over the second half of the
time. It makes the flow one that explains the other picture where no motion does: clouds change while they move.

The coarse levels come first, together, on the small pictures that they see. When their share of the time is over, the
next finer one starts as a copy of the finest so far. From then on a step is of any of the levels that had their turn
and of all that are coarser than it, at the same number of pixels: whole pictures alone would show the coarse levels,
which find the large motions, a sixteenth of them and less. The original trains one level at a time; the coarsest see a
few pixels here, and cost less than the making of their pictures.

The time is what is given, not a number of steps: the rate falls over its last part. On a CPU it is processor time,
which other programs don't spend. A run that was stopped goes on; with fewer minutes it comes to its end at once. Levels
that have not had their turn are copies of the finest one that had, so the averaged weights are of use at any moment.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from vidm import __version__, machine
from vidm.config import digest
from vidm.data.pairs import Sky, batch, wind
from vidm.data.textures import Pairs
from vidm.diffusion.losses import charbonnier
from vidm.errors import Interrupted
from vidm.files import check_file, replacing
from vidm.models.spynet import LEVELS, SpyNet, endpoint_error, warp
from vidm.progress import bar
from vidm.training.checkpoint import Checkpoints, State
from vidm.training.interrupt import Asked
from vidm.training.optimisation import ema_model

TURNS = {3: 0.2, 4: 0.4, 5: 1.0}  # the finest level that is trained, and the share of the time when its turn ends
PHOTOMETRIC, FROM, SOFT = 30.0, 0.5, 1e-3  # w at the end, when it starts to grow, and eta of its penalty
# Sides of pictures at the finest level; of coarser ones what the pyramid makes of these. All by 32.
SIDES, WHOLE = (32, 64, 64, 64, 128), (32, 64, 128, 256)
PIXELS, MOST = 16384, 64  # of a batch, and pictures
# Three times this rate within a hundred steps leaves a layer of dead units, and the flow at zero for good.
RATE, WARM, LAST, DECAY = 3e-4, 200, 0.01, 0.4  # peak, steps at the start of a level, share of it at the end, and when
AVERAGE = 0.999
LOOP = ("seconds", "level", "since")


@dataclass(frozen=True)
class Plan:
    """minutes: of processor time, on a GPU of the clock. scenes: rendered, of the embedded sky. pixels: of a batch."""

    minutes: float
    scenes: int = 384
    pixels: int = PIXELS
    seed: int = 0
    precision: str = "bf16"
    checkpoint_minutes: float = 5.0


def level_at(progress: float) -> int:
    """The finest level that is trained when this share of the time is over."""
    return next((level for level, end in TURNS.items() if progress < end), LEVELS - 1)


def rate_at(progress: float, since: int) -> float:
    """A short warm-up for each level, then constant, and a cosine over the last part of the time."""
    late = min(1.0, max(0.0, (progress - (1 - DECAY)) / DECAY))
    return RATE * min(1.0, (since + 1) / WARM) * (LAST + (1 - LAST) * 0.5 * (1 + math.cos(math.pi * late)))


def level_of(seed: int, step: int, finest: int) -> int:
    """The level that a step's pictures are for, when those up to `finest` had their turn."""
    first = level_at(0)
    return first + int(np.random.default_rng([seed, step]).integers(finest - first + 1))


def photometric_at(progress: float) -> float:
    """w of the loss."""
    return PHOTOMETRIC * max(0.0, (progress - FROM) / (1 - FROM))


def sides(level: int) -> list[int]:
    """Sides of the pictures that a level is trained on, when it is the finest."""
    if level == LEVELS - 1:
        return list(SIDES)
    whole = WHOLE if level < LEVELS - 2 else WHOLE[:-1]
    return [side >> (LEVELS - 1 - level) for side in whole]


def drawn(plan: Plan, sky: Sky, step: int, level: int) -> Pairs:
    """The batch of a step, whose pictures are as large as `level` sees them: a function of (seed, step, level)."""
    choice = sides(level)
    size = choice[np.random.default_rng([plan.seed, step, level]).integers(len(choice))]
    return batch(sky, plan.seed, step, max(1, min(MOST, plan.pixels // size**2)), size)


def level_loss(flows: list[Tensor], pairs: Pairs) -> Tensor:
    """The endpoint errors of all levels, summed; each in its own pixels, against the flow averaged over them."""
    total = flows[-1].new_zeros(())
    for k, flow in enumerate(reversed(flows)):
        truth, weight = (F.avg_pool2d(v, 2**k) for v in (pairs.flow / 2**k, pairs.weight))
        total = total + endpoint_error(flow, truth, weight)
    return total


def photometric_loss(flows: list[Tensor], references: list[Tensor], supportings: list[Tensor]) -> Tensor:
    """What the flow of each level leaves of its pictures' difference (SpyNet.pyramid), summed; Charbonnier."""
    total = flows[-1].new_zeros(())
    for flow, reference, supporting in zip(flows, references, supportings, strict=True):
        total = total + charbonnier(warp(supporting, flow), reference, SOFT).mean()
    return total


def start(level: nn.Module) -> None:
    """What a level is before training: its first layer sees change beside slope, the others are He's.

    Brightness that is constant along the motion means I_t = -flow . grad I. The channels of the first layer are
    max(0, +-I_s +- I_t) for four directions s and two widths: |I_s + I_t| - |I_s - I_t|, whose sign is that of their
    product, is then a sum of channels. From random layers, hundreds of steps leave the loss at that of zero flow.
    """
    for conv in level.convs:
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)
    with torch.no_grad():
        level.convs[-1].weight.mul_(0.1)
        line, filters = torch.arange(7) - 3.0, []
        for sigma in (0.8, 1.4):
            bell = torch.exp(-(line**2) / (2 * sigma**2))
            blur = torch.outer(bell, bell) / bell.sum() ** 2
            for k in range(4):
                angle = k * math.pi / 4
                slope = (math.cos(angle) * line + math.sin(angle) * line[:, None]) * blur / sigma**2
                for s, t in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                    reference, warped = s * slope / 2 - t * blur, s * slope / 2 + t * blur
                    filters.append(torch.stack([reference] * 3 + [warped] * 3) * (2 / 3))
        first = level.convs[0].weight
        first.mul_(0.1)
        first[:, :6] += torch.stack(filters)


def pass_on(network: SpyNet, level: int) -> None:
    """Every level finer than `level` becomes a copy of it."""
    for finer in network.levels[level + 1 :]:
        finer.load_state_dict(network.levels[level].state_dict())


def judged(network: SpyNet, known: Pairs) -> float:
    """Endpoint error on known motion, pixels, in fp32."""
    pairs = zip(known.reference.split(4), known.supporting.split(4), strict=True)
    with torch.inference_mode():
        flow = torch.cat([network(*pair) for pair in pairs])
    return float(endpoint_error(flow, known.flow, known.weight))


def export(network: SpyNet, path: Path, notes: dict[str, Any]) -> None:
    """Half precision, by the names of BasicVSR's port, so that what reads those reads these."""
    tensors = {
        f"basic_module.{level}.basic_module.{i}.conv.{kind}": getattr(conv, kind).detach().half().cpu().contiguous()
        for level, module in enumerate(network.levels)
        for i, conv in enumerate(module.convs)
        for kind in ("weight", "bias")
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"weights": json.dumps(notes, sort_keys=True)})


def run_folder(runs: Path, plan: Plan) -> Path:
    """runs/spynet-{hash}: the hash covers what trains, not for how long: more minutes go on where fewer ended."""
    return runs / f"spynet-{digest(plan.scenes, plan.pixels, plan.seed, plan.precision)}"


def train(plan: Plan, out: Path, runs: Path) -> str:
    """Train for `plan.minutes`, from the newest checkpoint in its run's folder on; write `out`. Returns a summary.

    Raises Interrupted after a signal, its state saved and the averaged weights written to `out` none the less.
    """
    check_file(out)
    folder, device = run_folder(runs, plan), machine.prepare(plan.seed)
    network = SpyNet()
    for level in network.levels:
        start(level)
    network = network.to(device, memory_format=torch.channels_last)
    ema, fused = ema_model(network, AVERAGE), device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-5, fused=fused)
    loop = {name: torch.zeros((), dtype=torch.float64) for name in LOOP}
    loop["level"].fill_(level_at(0))
    state, checkpoints = State(network, ema, optimizer, loop), Checkpoints(folder, keep=2)
    spent = time.process_time if device.type == "cpu" else time.perf_counter
    budget, step, loss, stop = 60 * plan.minutes, 0, math.nan, ""
    with checkpoints.locked(), Asked() as asked:
        found = checkpoints.newest(sys.maxsize)
        if found:
            step = found[0]
            state.restore(found[1])
            _say(f"goes on at step {step}, after {float(loop['seconds']) / 60:.1f} minutes")
        sky, known = Sky(plan.scenes, seed=plan.seed), wind(64)
        still = float(endpoint_error(0 * known.flow, known.flow, known.weight))

        def keep() -> float:
            minutes, level = float(loop["seconds"]) / 60, int(loop["level"])
            averaged = copy.deepcopy(ema.module).to("cpu")
            pass_on(averaged, level)
            error = judged(averaged, known)
            said = f"{error:.3f} px on the embedded sky at 64 px, zero flow {still:.3f}"
            _say(f"{minutes:.1f} of {plan.minutes:g} minutes, step {step}, level {level}, loss {loss:.3f}; {said}")
            checkpoints.save(step, state.tensors(), error)
            export(averaged, out, _notes(plan, step, minutes, said))
            return time.monotonic()

        saved, done = time.monotonic(), int(min(budget, float(loop["seconds"])))
        with bar(max(1, int(budget)), "spynet", "s", done=done) as progress:
            before, stop = spent(), asked.signal
            while float(loop["seconds"]) < budget and not stop:
                share = float(loop["seconds"]) / budget
                level = max(level_at(share), int(loop["level"]))
                if level != int(loop["level"]):
                    pass_on(network, int(loop["level"]))
                    pass_on(ema.module, int(loop["level"]))
                    loop["level"].fill_(level)
                    loop["since"].zero_()

                # Gradients.
                now = level_of(plan.seed, step, level)
                pairs = Pairs(*(v.to(device) for v in drawn(plan, sky, step, now)))
                with machine.autocast(device, plan.precision):
                    flows = network.flows(pairs.reference, pairs.supporting, now + 1)
                error = level_loss(flows, pairs)
                value, weight = float(error.detach()), photometric_at(share)
                if weight:
                    pyramids = (network.pyramid(v, now + 1) for v in (pairs.reference, pairs.supporting))
                    error = error + weight * photometric_loss(flows, *pyramids)
                optimizer.zero_grad(set_to_none=True)
                error.backward()
                norm = nn.utils.clip_grad_norm_(network.parameters(), 1.0)

                # Weights, unless gradients are not finite.
                if math.isfinite(float(norm)):
                    for group in optimizer.param_groups:
                        group["lr"] = rate_at(share, int(loop["since"]))
                    optimizer.step()
                    ema.update_parameters(network)
                    loss = value if math.isnan(loss) else 0.98 * loss + 0.02 * value
                step += 1
                loop["since"] += 1

                # What people see, and what is kept.
                clock = spent()
                loop["seconds"] += clock - before
                before, stop = clock, asked.signal
                passed = int(min(budget, float(loop["seconds"]))) - progress.done
                progress.advance(passed, f"step {step}, level {level}, loss {loss:.3f}")
                if time.monotonic() - saved > 60 * plan.checkpoint_minutes and not stop:
                    saved, before = keep(), spent()
            keep()
    if stop:
        where = f"saved in {folder}, weights so far in {out}"
        raise Interrupted(f"spynet: {stop} at step {step}; {where}; the same command goes on")
    return f"{out}: {step} steps, {float(loop['seconds']) / 60:.1f} minutes"


def _notes(plan: Plan, step: int, minutes: float, said: str) -> dict[str, Any]:
    return {
        "name": "spynet",
        "source": "trained by vidm on procedural motion",
        "licence": "MIT",
        "note": f"{step} steps, {minutes:.1f} minutes; endpoint error {said}",
        "seed": plan.seed,
        "versions": {"vidm": __version__, "torch": torch.__version__},
    }


def _say(text: str) -> None:
    print(f"spynet: {text}", file=sys.stderr, flush=True)
