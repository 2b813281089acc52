"""The least time that a training step or a sampling step of a network can take on a card, from the card's data sheet.

    python benchmarks/roofline.py                                  # an H100; sky, taichi128, sky256
    python benchmarks/roofline.py taichi128 --batch 32 --bf16 312 --tf32 156 --fp32 19.5 --bandwidth 2.04

Every operation of the forward and the backward pass is seen on tensors without numbers. Its time is that of its FLOPs
at the peak of its dtype or that of its bytes at the card's bandwidth, whichever is longer. Launches, caches and wasted
tiles are left out: real code is slower.

    naive   fp32, convolutions in TF32 (PyTorch's default), coordinates on the whole grid: each operation reads its
            inputs from memory and writes its result there
    eager   ours: bf16 (floats count half), the coordinates' MLP in fp32 with TF32 products (`machine.set_tf32`); a
            GPU's group norm works on NCHW, so that a map in channels_last is copied before it and behind it
    fused   as eager, and whatever is elementwise costs nothing: only convolutions, products and the moments of norms
            touch memory. No compiler gets below it.
    strict  as fused, without TF32

The optimizer and the average come on top: every tensor of a state is read and written once, by the naive loop each
operation's. Sampling: 100 steps a frame and all of the network in each, against 8.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

import torch
from sampling_speed import on_the_whole_grid
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from vidm import config
from vidm.models.posgn import PosGN
from vidm.models.summary import on_meta

NAIVE_STEPS, STEPS = 100, 8
# AdamW in one kernel reads weight, gradient and two moments and writes three; the average is three more. The naive loop
# has some twelve operations of AdamW (about 30 tensors), clipping and two of the average.
STATE, NAIVE_STATE = 10, 40
# Torch does not call these elementwise; a compiler makes them on the way to what reads them.
ELEMENTWISE = {
    "_to_copy",
    "cat",
    "constant_pad_nd",
    "upsample_nearest2d",
    "avg_pool2d",
    "slice_backward",
    "copy_",
    "sum",
}
ELEMENTWISE |= {f"{name}_backward" for name in ("upsample_nearest2d", "avg_pool2d")}


class Roofline(TorchDispatchMode):
    """Sums up `flops`, `bytes` and `seconds` of what runs inside."""

    def __init__(self, peaks: dict[str, float], kind: str) -> None:
        super().__init__()
        self.peaks, self.kind = peaks, kind
        self.flops = self.bytes = self.seconds = 0.0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        name = operation._schema.name.removeprefix("aten::")
        inputs, outputs = _sizes((args, kwargs)), _sizes(out)
        if not outputs or (outputs.keys() <= inputs.keys() and not name.endswith("_")):
            return out  # a view
        packet = operation.overloadpacket
        flops = flop_registry[packet](*args, **(kwargs or {}), out_val=out) if packet in flop_registry else 0
        size = sum(inputs.values()) + sum(outputs.values())
        if self.kind == "naive":
            peak = "tf32" if "conv" in name else "fp32"
        elif name in ("mm", "addmm"):  # autocast leaves the coordinates' MLP in fp32; attention has bmm
            peak = "fp32" if self.kind == "strict" else "tf32"
        else:
            peak = "bf16"
        if self.kind in ("fused", "strict"):
            if torch.Tag.pointwise in operation.tags or name in ELEMENTWISE:
                return out
            if name.startswith("native_group_norm"):
                size = sum(inputs.values())
        elif self.kind == "eager" and name.startswith("native_group_norm"):
            size *= 3
        self.add(flops, size, peak)
        return out

    def add(self, flops: float, size: float, peak: str) -> None:
        size /= 2 if peak == "bf16" else 1
        self.flops, self.bytes = self.flops + flops, self.bytes + size
        self.seconds += max(flops / self.peaks[peak], size / self.peaks["bandwidth"])


def _sizes(tree: object) -> dict[StorageWeakRef, float]:
    """Bytes of each tensor in it, by where it lies."""
    return {
        StorageWeakRef(x.untyped_storage()): min(x.numel() * x.element_size(), x.untyped_storage().nbytes())
        for x in tree_leaves(tree)
        if isinstance(x, Tensor)
    }


def of(e: config.Experiment, size: int, count: int, peaks: dict[str, float], kind: str, train: bool) -> Roofline:
    """A training step, or one call of the motion network with `count` items."""
    network, inputs = on_meta("motion", e, size)
    if kind == "naive":
        for norm in (m for m in network.modules() if isinstance(m, PosGN)):
            norm.modulation = partial(on_the_whole_grid, norm)
    # In sampling t and n are the same for all items; the official code has them for each.
    each = train or kind == "naive"
    inputs = [x.expand(count if each or x.ndim == 4 else 1, *x.shape[1:]).clone() for x in inputs]
    roofline = Roofline(peaks, kind)
    with roofline:
        if train:
            network.train()(*inputs).square().mean().backward()
        else:
            with torch.no_grad():
                network.eval()(*inputs)
    if train:
        parameters = sum(p.numel() for p in network.parameters())
        roofline.add(0, 4 * (NAIVE_STATE if kind == "naive" else STATE) * parameters, "fp32")
    return roofline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="*", default=["sky", "taichi128", "sky256"])
    parser.add_argument("--batch", type=int, help="to train; default: 16, 32 and 8, what gpu.py finds room for")
    parser.add_argument("--bf16", type=float, default=989.4, help="TFLOP/s, dense")
    parser.add_argument("--tf32", type=float, default=494.7)
    parser.add_argument("--fp32", type=float, default=66.9)
    parser.add_argument("--bandwidth", type=float, default=3.35, help="TB/s")
    a = parser.parse_args()
    peaks = {name: getattr(a, name) * 1e12 for name in ("bf16", "tf32", "fp32", "bandwidth")}
    params, room = config.load(), {"sky": 16, "taichi128": 32, "sky256": 8}
    print(f"{'':<34}{'batch':>6}{'TFLOP':>9}{'GB':>9}{'ms':>9}{'ratio':>8}{'MFU':>7}")
    for name in a.experiments:
        e = params.experiment(name)
        size = params.dataset(e.dataset).resolution
        for what, count in (("training step", a.batch or room.get(name, 8)), ("call in sampling", 16)):
            base = None
            for kind in ("naive", "eager", "strict", "fused"):
                r = of(e, size, count, peaks, kind, what == "training step")
                base = base or r.seconds
                useful = r.flops / peaks["bf16"] / r.seconds
                print(
                    f"{f'{name}, {what}: {kind}':<34}{count:>6}{r.flops / 1e12:>9.2f}{r.bytes / 1e9:>9.1f}"
                    f"{r.seconds * 1e3:>9.2f}{base / r.seconds:>8.1f}{useful:>7.0%}",
                    flush=True,
                )
            if what != "training step":
                whole = base / r.seconds * NAIVE_STEPS / STEPS
                print(f"{'':<34}{NAIVE_STEPS} steps of naive to {STEPS} of fused: {whole:.0f} times")


if __name__ == "__main__":
    sys.exit(main())
