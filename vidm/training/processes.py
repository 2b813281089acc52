"""One process or many: each takes its share of every batch, and all stop together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor

ASK_EVERY = 10  # steps


def accelerator_of(device: torch.device, unused: bool = False) -> Accelerator:
    """This process's place among all: one alone, or as `accelerate launch` or torchrun started it.

    unused: some parameters get no gradient.
    """
    return Accelerator(
        cpu=device.type == "cpu", kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused)]
    )


def parts(batch: dict[str, Tensor], count: int) -> Iterator[tuple[dict[str, Tensor], float, bool]]:
    """(part of the batch, its share of the items, whether it is the last)."""
    size = len(next(iter(batch.values())))
    cuts = [round(size * k / count) for k in range(count + 1)]
    for k in range(count):
        part = {key: value[cuts[k] : cuts[k + 1]] for key, value in batch.items()}
        yield part, (cuts[k + 1] - cuts[k]) / size, k == count - 1


def address(seed: int, step: int, process: int) -> int:
    """A seed for what layers draw in a step (dropout): a function of where it is drawn, not of what was before."""
    return int(np.random.SeedSequence([seed, step, process, 1]).generate_state(1, np.uint64)[0] >> 1)


def any_asked(accelerator: Accelerator, mine: bool, step: int) -> bool:
    """Whether any process was asked to stop: all do, at the same step. Asked of the others now and then."""
    if accelerator.num_processes == 1:
        return mine
    if step % ASK_EVERY:
        return False
    return bool(accelerator.reduce(torch.tensor(float(mine), device=accelerator.device), "sum"))
