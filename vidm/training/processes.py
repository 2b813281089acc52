"""One process or many: each takes its share of every batch, and all stop together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor


def accelerator_of(device: torch.device, unused: bool = False, log_with: str | None = None) -> Accelerator:
    """This process's place among all: one alone, or as `accelerate launch` or torchrun started it.

    unused: some parameters get no gradient. log_with: a tracker, left out where its package is not installed.
    """
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no",  # an experiment's fact; else that of accelerate's own configuration would come on top
        log_with=log_with,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused)],
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


def together(accelerator: Accelerator, *values: Tensor | float) -> list[float]:
    """The sum of each value over all processes: one exchange, after which all know the same."""
    mine = torch.stack([torch.as_tensor(value, dtype=torch.float32, device=accelerator.device) for value in values])
    return (mine if accelerator.num_processes == 1 else accelerator.reduce(mine, "sum")).tolist()
