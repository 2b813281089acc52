"""What this machine has: cores that we may use, the device, a deterministic setting."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from pathlib import Path

import psutil

from vidm.errors import InputError


def cores() -> int:
    """Cores that this process may run on; less than the machine's in a container or a cluster job."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def loaders(device, processes: int = 1) -> int:
    """Processes that should prepare batches for each of so many on this machine: for a GPU one on each core that is
    free, at most eight. A CPU has none to spare.
    """
    return max(0, min(8, cores() // processes - 1)) if device.type == "cuda" else 0


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


@functools.cache
def has_bf16(kind: str) -> bool:
    """Whether devices of this kind ("cpu", "cuda") compute in bf16.

    All others only imitate it: on a CPU without AVX-512 a convolution takes up to thirty times as long as in fp32.
    """
    import torch

    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # The library that has CPU kernels for it; some builds, such as those for macOS, come without.
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def precision(device, asked: str) -> str:
    """What `precision: bf16` comes to: "bf16" where the device computes in it, else "fp32", the exacter one."""
    return asked if asked == "fp32" or has_bf16(device.type) else "fp32"


def autocast(device, asked: str):
    """bf16 autocast where it is asked for and the device has it, else a context that does nothing."""
    import torch

    if precision(device, asked) == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def set_tf32(device, asked: str) -> None:
    """Where a GPU may multiply in TF32, from here to the process's end.

    With bf16: in the matrix products that autocast leaves in fp32. They are PosGN's. In strict fp32 they would take
    longer than all convolutions (benchmarks/roofline.py); the ten bits of TF32 keep a thousand steps apart, as bf16's
    seven do not. With fp32: nowhere, where PyTorch's default has it in convolutions.
    """
    import torch

    if device.type == "cuda":
        fast = precision(device, asked) == "bf16"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = fast


def full_precision(device):
    """No autocast inside. The meta device has none to turn off."""
    import torch

    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


@contextlib.contextmanager
def exact(device):
    """Full fp32 inside: no autocast, and no TF32 of a GPU, whatever the process has set (`set_tf32`).

    Not by cudnn.flags: what it is not told it sets too, and cuDNN itself to off.
    """
    import torch

    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = False
        with full_precision(device):
            yield
    finally:
        for place, allowed in zip(places, before, strict=True):
            place.allow_tf32 = allowed


def free_memory(device) -> int:
    """Bytes that are free on the device: on a GPU its own, else the machine's or those of our control group."""
    import torch

    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by the allocator, for later
        return torch.cuda.mem_get_info(device)[0] + kept
    return max(0, int(min(psutil.virtual_memory().available, control_group_memory())))


def control_group_memory(process: Path = Path("/proc/self/cgroup"), top: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that a cluster's job or a container may still take (control groups of version 2); inf without a limit."""
    free = math.inf
    try:
        name = process.read_text(encoding="utf-8").split("0::/")[1].split("\n")[0]
        for folder in [top / name, *(top / name).parents]:
            limit = (folder / "memory.max").read_text(encoding="utf-8").strip()
            if limit != "max":
                stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
                used = int((folder / "memory.current").read_text(encoding="utf-8")) - int(stat["inactive_file"])
                free = min(free, int(limit) - used)
    except (OSError, IndexError, KeyError, ValueError):
        pass  # another system, or the top of the tree
    return free
