"""From an experiment and a frame store to a file of trained weights: what content and motion training share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from vidm import __version__, machine
from vidm.config import Experiment, Params
from vidm.data.clips import batches
from vidm.data.store import FrameStore
from vidm.errors import InputError
from vidm.models import trained
from vidm.training.loop import Diverged, fit


def open_store(experiment: Experiment, params: Params, path: Path) -> FrameStore:
    """The frame store of an experiment; InputError where its frames can't be what the experiment names."""
    store = FrameStore(path)
    resolution = params.dataset(experiment.dataset).resolution
    if store.resolution != resolution:
        raise InputError(
            f"{path}: frames are {store.resolution} pixels, datasets.{experiment.dataset}.resolution is {resolution}; "
            "extract again"
        )
    if not any(store.length(i) >= experiment.frames for i in store.indices("train")):
        raise InputError(
            f"{path}: no train clip has the {experiment.frames} frames of experiments.{experiment.name}.frames; "
            "lower it, or give longer videos"
        )
    return store


def _classes(experiment: Experiment, source) -> dict[str, int]:
    """Train clips of each class, in the order of `source.class_names`."""
    names = [source.store.classes[i] for i in source.clips]
    if len(source.class_names) < 2:
        raise InputError(
            f"{source.store.path}: its clips have {len(source.class_names)} class, experiments.{experiment.name}."
            "class_conditioning needs two; put the videos of each class into a folder of its own"
        )
    return {name: names.count(name) for name in source.class_names}


def train_part(
    params: Params,
    experiment: Experiment,
    part: str,
    frames: Path,
    out: Path,
    draw: Callable,
    loss: Callable,
    start: Callable | None = None,
    **notes: str,
) -> None:
    """Train one part of an experiment and write `out` (safetensors) and `{part}_loss.csv` beside it."""
    facts = getattr(experiment, part)
    device = machine.prepare(experiment.seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with open_store(experiment, params, frames) as store:
        source = draw(store)
        classes = _classes(experiment, source) if experiment.class_conditioning else {}
        network = trained.build(part, facts, store.resolution, experiment.frames, len(classes))
        if start:
            start(network)
        steps = facts.training.steps
        try:
            ema = fit(
                network,
                loss,
                batches(source, facts.training.batch, 0, steps),
                facts.training,
                device,
                curve=out.with_name(f"{part}_loss.csv"),
                description=f"{experiment.name} {part}",
            )
        except Diverged as error:
            raise InputError(str(error)) from None
        about = {
            "part": part,
            "experiment": experiment.name,
            "facts": facts.model_dump(mode="json"),
            "size": store.resolution,
            "frames": experiment.frames,
            "classes": classes,
            "step": steps,
            "samples": steps * facts.training.batch,
            "ema": facts.training.ema,
            "seed": experiment.seed,
            "data_sha256": store.sha256,
            "data_origin": store.origin,
            "model_version": params.model_version,
            "vidm": __version__,
            "torch": torch.__version__,
        }
    trained.save(ema, out, about | notes)
