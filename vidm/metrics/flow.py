"""How good a SpyNet is, where motion is known and where it is not.

    endpoint error   mean |flow - truth|, pixels, on opaque cloud of the embedded sky's test clips
    photometric      mean |warp(supporting, flow) - reference|, grey levels, on real clips

Both stand beside zero flow. All weights see the same pictures, in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vidm import machine, weights
from vidm.data.pairs import wind
from vidm.errors import InputError
from vidm.metrics import clipset, folders
from vidm.models.spynet import SpyNet, endpoint_error, warp
from vidm.progress import bar

Flow = Callable[[Tensor, Tensor], Tensor]
BATCH = 4
STEPS = (1, 2, 4)  # frames of the embedded sky: 2 to 20 pixels of 128
KNOWN, UNKNOWN = "endpoint error, px", "photometric L1, grey levels"


def still(reference: Tensor, _: Tensor) -> Tensor:
    """Zero flow."""
    return reference.new_zeros(len(reference), 2, *reference.shape[-2:])


def network(path: Path, device: torch.device) -> SpyNet:
    """A SpyNet with the weights of a file. Raises InputError."""
    tensors, _ = weights.load("spynet", path)
    made = SpyNet()
    try:
        made.load_pretrained(tensors)
    except (ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: not the weights of a six-level SpyNet ({reason})") from None
    return made.to(device, memory_format=torch.channels_last).eval()


def flows(network: Flow, reference: Tensor, supporting: Tensor, device: torch.device) -> Tensor:
    """The flow of every pair, a few at a time, on the CPU."""
    parts = zip(reference.split(BATCH), supporting.split(BATCH), strict=True)
    with torch.inference_mode(), machine.exact(device):
        return torch.cat([network(a.to(device), b.to(device)).cpu() for a, b in parts])


def photometric(flow: Tensor, reference: Tensor, supporting: Tensor) -> float:
    """Mean |warp(supporting, flow) - reference| of pictures in [0, 1], in grey levels of 255."""
    return 255 * float((warp(supporting, flow) - reference).abs().mean())


def real_pairs(path: Path, first: int, last: int) -> tuple[list[Tensor], list[str]]:
    """Frames `first` and `last` of every clip that has both, (2, 3, S, S) in [0, 1] each: the centre squares.

    Beside them what is left away, and why. Raises InputError where nothing is left.
    """
    if path.is_dir():
        source = folders.from_folder(path, lambda length, _: (0, min(length, last + 1)), any_size=True)
    else:
        source = clipset.open_source(path, [], None)
    clips = [clip for clip in source.clips if clip.length > last]
    if not clips:
        raise InputError(f"{path}: no clip has the {last + 1} frames that frame {last} needs; give a lower one")
    reasons = source.facts()["dropped_why"]
    if short := len(source.clips) - len(clips):
        reasons[f"fewer than {last + 1} frames"] = short
    pairs = (np.concatenate([source.read(clip.index, n, 1, 1) for n in (first, last)]) for clip in clips)
    images = [_square(torch.from_numpy(pair).permute(0, 3, 1, 2)).float() / 255 for pair in pairs]
    return images, [f"{count} of {path} dropped: {reason}" for reason, count in reasons.items()]


def _square(images: Tensor) -> Tensor:
    """The centres of (N, C, H, W)."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[..., top : top + side, left : left + side]


def resized(images: Tensor, side: int) -> Tensor:
    """(N, 3, side, side), bicubic."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, size=(side, side), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)


def compare(
    named: Mapping[str, Path], real: Path | None, frames: tuple[int, int], sides: Sequence[int], scenes: int
) -> str:
    """A table: for each of the weights, and for zero flow, each error; then which real clips were left away.

    sides: pixels of both kinds of pictures. Raises InputError.
    """
    first, last = frames
    if not 0 <= first < last:
        raise InputError(f"--frames {first} {last}: give two frames in order, the first one 0 or more, such as 0 8")
    device = machine.prepare()
    judged: dict[str, Flow] = {"zero flow": still} | {name: network(path, device) for name, path in named.items()}
    rows: list[tuple[str, list[float]]] = []
    pairs, dropped = real_pairs(real, first, last) if real else ([], [])
    with bar(len(sides) * (len(STEPS) + bool(real)), "compare flow", "tests") as progress:
        for side in sides:
            for step in STEPS:
                known = wind(side, scenes, step)
                row = []
                for judge in judged.values():
                    flow = flows(judge, known.reference, known.supporting, device)
                    row.append(float(endpoint_error(flow, known.flow, known.weight)))
                rows.append((f"{KNOWN}; embedded sky, {side} px, {step} frames on", row))
                progress.advance()
            if pairs:
                one, other = torch.stack([resized(pair, side) for pair in pairs], dim=1)
                row = [photometric(flows(judge, one, other, device), one, other) for judge in judged.values()]
                rows.append((f"{UNKNOWN}; {len(one)} real clips, {side} px, frames {first} to {last}", row))
                progress.advance()
    return "\n".join([_table(list(judged), rows), *(f"note: {text}" for text in dropped)])


def _table(names: list[str], rows: list[tuple[str, list[float]]]) -> str:
    wide = max(len(label) for label, _ in rows)
    columns = [max(9, len(name)) for name in names]
    lines = ["".ljust(wide) + "".join(f"  {name:>{width}}" for name, width in zip(names, columns, strict=True))]
    for label, values in rows:
        lines.append(
            label.ljust(wide) + "".join(f"  {value:>{width}.3f}" for value, width in zip(values, columns, strict=True))
        )
    return "\n".join(lines)
