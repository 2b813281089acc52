"""What an experiment's networks cost: parameters, and GFLOPs (2 per multiply-add) of one call with one item.

Networks are built on the meta device: shapes without numbers, so that any size takes seconds. FLOPs are those of
convolutions and matrix products, as torch counts them; norms, activations and warping are left out. What a training
keeps is every tensor that autograd holds between a forward pass and its gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode

from vidm import progress
from vidm.config import Content, Diffusion, Experiment, Motion, Params, Training
from vidm.models import trained
from vidm.models.posgn import PosGN

STATE = 20  # bytes a parameter in training: fp32 weight and gradient, two moments of AdamW, the average


@dataclass(frozen=True)
class Part:
    """A part of a network. `calls`: how often it is called for one video; `coordinates`: GFLOPs of PosGN's MLPs."""

    network: str
    name: str
    parameters: int
    gflops: float
    coordinates: float
    calls: int


def parts(experiment: Experiment, size: int, classes: int = 0) -> list[Part]:
    """Every part of the content and the motion network at `size` pixels."""
    e, sampling = experiment, experiment.sampling
    further = frames_of(e) - 1  # all frames but the first
    steps = sampling.steps * further
    residual = {"features": sampling.steps, "features-n": steps, "output": 1, "none": 0}[e.motion.residual]
    second = "residual U-Net" if e.motion.residual == "output" else "residual encoder"
    every = sampling.content_steps
    content = {"unet": "U-Net", "embedding": "time", "constant": "constant"}
    motion = {"unet": "U-Net", "residual": second, "spynet": "SpyNet", "embedding": "time"}
    return [
        *_parts("content", e, size, classes, content, dict.fromkeys(content, every)),
        *_parts(
            "motion", e, size, classes, motion, dict.fromkeys(motion, steps) | {"residual": residual, "spynet": further}
        ),
    ]


def frames_of(experiment: Experiment) -> int:
    """Of each video that the experiment samples, which may be more than its motion network was trained for."""
    return experiment.sampling.frames or experiment.frames


def on_meta(part: str, experiment: Experiment, size: int, classes: int = 0) -> tuple[nn.Module, tuple]:
    """A network without numbers, and the inputs of one item."""
    return _on_meta(part, getattr(experiment, part), size, experiment.frames, classes)


def _on_meta(part: str, facts: Content | Motion, size: int, frames: int, classes: int) -> tuple[nn.Module, tuple]:
    with torch.device("meta"):
        network = trained.build(part, facts, size, frames, classes)
        image, one = torch.empty(1, 3, size, size), torch.zeros(1, dtype=torch.long)
    inputs = (image, one) if part == "content" else (image, one, one, image, image)
    return network, (*inputs, *([one] if classes else []))


def kept(network: nn.Module, inputs: tuple) -> int:
    """Bytes that a call keeps for its gradients, beside the weights and without checkpointing."""
    weights = {StorageWeakRef(p.untyped_storage()) for p in network.parameters()}
    found: dict[StorageWeakRef, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if (place := StorageWeakRef(storage)) not in weights:
            found[place] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        output = network.train()(*inputs)
    del output  # until here it holds all of them
    return sum(found.values())


def _parts(
    network: str, e: Experiment, size: int, classes: int, names: dict[str, str], calls: dict[str, int]
) -> Iterator[Part]:
    """The parts that the network has of `names` ({attribute: name})."""
    facts = getattr(e, network)
    # How a network is trained makes it no other one.
    diffusion = Diffusion(steps=facts.diffusion.steps, variance=facts.diffusion.variance)
    facts = facts.model_copy(update={"training": Training(), "diffusion": diffusion})
    measured = _measured(network, facts, size, e.frames, classes, tuple(names))
    for path, (parameters, gflops, coordinates) in measured.items():
        yield Part(network, names[path], parameters, gflops, coordinates, calls[path])


@functools.cache
def _measured(
    part: str, facts: Content | Motion, size: int, frames: int, classes: int, paths: tuple[str, ...]
) -> Mapping[str, tuple[int, float, float]]:
    """(parameters, GFLOPs, those of coordinates) of the attributes that the network has. Once for equal networks."""
    network, inputs = _on_meta(part, facts, size, frames, classes)
    gflops = _gflops(network, inputs)
    norms = [path for path, module in network.named_modules() if isinstance(module, PosGN)]
    found = {}
    for path in paths:
        own = [p.numel() for key, p in network.named_parameters() if key == path or key.startswith(f"{path}.")]
        if own:
            coordinates = sum(gflops.get(norm, 0.0) for norm in norms if norm.startswith(f"{path}."))
            found[path] = sum(own), gflops.get(path, 0.0), coordinates
    return MappingProxyType(found)


def _gflops(network: nn.Module, inputs: tuple) -> dict[str, float]:
    """GFLOPs of every module in one call, by its path."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(*inputs)
    root = type(network).__name__
    return {name.removeprefix(f"{root}."): sum(ops.values()) / 1e9 for name, ops in counter.get_flop_counts().items()}


def describe(params: Params, names: Iterable[str], classes: Callable[[str], int]) -> str:
    """A table a experiment, or one line each where there are several. classes: of a dataset; 0: not known."""
    names = list(names)
    of = {name: classes(e.dataset) for name in names if (e := params.experiment(name)).class_conditioning}
    unknown = [f"{name}: without its classes, whose number only its data say" for name in of if not of[name]]
    if len(names) == 1:
        return "\n".join([_table(params, names[0], of.get(names[0], 0)), *unknown])
    head = f"{'experiment':<28}{'pixels':>7}{'frames':>7}{'parameters':>12}{'content':>9}{'motion':>9}{'a video':>10}"
    unit = f"{'':<28}{'':>7}{'':>7}{'M':>12}{'GFLOPs':>9}{'GFLOPs':>9}{'TFLOPs':>10}"
    lines = [head, unit]
    with progress.bar(len(names), "networks", "experiments") as bar:
        for name in names:
            e, found = params.experiment(name), _of(params, name, of.get(name, 0))
            content, motion = (sum(p.gflops for p in found if p.network == part) for part in ("content", "motion"))
            lines.append(
                f"{name:<28}{params.dataset(e.dataset).resolution:>7}{frames_of(e):>7}"
                f"{sum(p.parameters for p in found) / 1e6:>12.2f}{content:>9.1f}{motion:>9.1f}"
                f"{sum(p.gflops * p.calls for p in found) / 1e3:>10.2f}"
            )
            bar.advance(1, name)
    return "\n".join([*lines, *unknown])


def _of(params: Params, name: str, classes: int) -> list[Part]:
    e = params.experiment(name)
    return parts(e, params.dataset(e.dataset).resolution, classes)


def _table(params: Params, name: str, classes: int) -> str:
    e, found = params.experiment(name), _of(params, name, classes)
    s, row = e.sampling, "{:<28}{:>12}{:>9}{:>13}{:>15}".format
    lines = [
        f"{name}: {params.dataset(e.dataset).resolution} pixels, {frames_of(e)} frames, data set {e.dataset}"
        f"{f', {classes} classes' if classes else ''}",
        "",
        row("", "parameters", "GFLOPs", "of them", "calls"),
        row("", "M", "a call", "coordinates", "a video"),
    ]
    for network in ("content", "motion"):
        own = [p for p in found if p.network == network]
        whole = Part(
            network, "all", *(sum(getattr(p, f) for p in own) for f in ("parameters", "gflops", "coordinates")), 0
        )
        for p in [*own, whole]:
            coordinates = f"{p.coordinates:.2f}" if p.coordinates else ""
            lines.append(
                row(f"{network}  {p.name}", f"{p.parameters / 1e6:.2f}", f"{p.gflops:.2f}", coordinates, p.calls or "")
            )
        lines.append("")
    video = sum(p.gflops * p.calls for p in found)
    lines += [
        f"one video: {video / 1e3:.2f} TFLOPs, with {s.content_steps} steps for the first frame and {s.steps} for each "
        "further one,",
        "each part called no more often than its inputs change.",
        "",
        "in training, fp32:",
    ]
    for part in ("content", "motion"):
        network, inputs = on_meta(part, e, params.dataset(e.dataset).resolution, classes)
        state = STATE * sum(p.numel() for p in network.parameters())
        lines.append(
            f"{part:<7}  {kept(network, inputs) / 2**30:.2f} GiB of features an item, "
            f"{state / 2**30:.2f} GiB of weights, gradients, AdamW and average"
        )
    return "\n".join(lines)
