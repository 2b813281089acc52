"""What this machine has: cores that we may use, the device, a deterministic setting."""

from __future__ import annotations

import os

from vidm.errors import InputError


def cores() -> int:
    """Cores that this process may run on; less than the machine's in a container or a cluster job."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare(seed: int = 0, gpus: int | None = None):
    """The torch device to use, with threads capped by the machine and the weights' random start seeded.

    gpus: how many are asked for; 0 uses none, None one where there is one. Raises InputError where there are fewer.
    Snakemake sets OMP_NUM_THREADS to a rule's threads: `--cores 8` on two cores would oversubscribe them.
    """
    import torch

    torch.set_num_threads(max(1, min(torch.get_num_threads(), cores())))
    torch.manual_seed(seed)
    if gpus and torch.cuda.device_count() < gpus:
        raise InputError(
            f"running.gpus: {gpus} asked for, torch sees {torch.cuda.device_count()} here; set it to 0 to use the CPU"
        )
    return torch.device("cuda" if gpus != 0 and torch.cuda.is_available() else "cpu")


def autocast(device, precision: str):
    """bf16 autocast where `precision` asks for it, else a context that does nothing."""
    import torch

    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
