"""From an experiment and a frame store to a file of trained weights: what content and motion training share."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator

from vidm import __version__, machine, protocols
from vidm.config import Diffusion, Experiment, Params, Training, digest
from vidm.data.clips import Levels, batches
from vidm.data.store import FrameStore
from vidm.diffusion.schedule import check_sigmas, level_probabilities
from vidm.errors import InputError
from vidm.files import check_file, replacing
from vidm.models import trained
from vidm.models.blocks import Stage
from vidm.training.checkpoint import Checkpoints
from vidm.training.live import tracker
from vidm.training.loop import Fitted, Task, fit
from vidm.training.preview import Preview
from vidm.training.processes import accelerator_of


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
    for name in experiment.metrics.protocols:
        rule = protocols.find(name, params.protocols)
        clips = store.indices(None if rule.split == "all" else rule.split)
        if sum(store.length(i) >= rule.span for i in clips) < 2:  # training alone needs none
            print(
                f"{experiment.name}: there will be no FVD by protocol '{name}' (metrics.protocols): fewer than 2 clips "
                f"of {path} have its {rule.span} frames",
                file=sys.stderr,
            )
    return store


def levels_of(diffusion: Diffusion) -> Levels:
    """How training draws t, as vidm.data.clips takes it."""
    return diffusion.steps if diffusion.levels == "uniform" else level_probabilities(diffusion).tolist()


def check_levels(experiment: Experiment) -> None:
    """InputError where the noise levels that frames are to begin at are none of the schedule's."""
    diffusion, own = experiment.motion.diffusion, experiment.motion.own_outputs
    sampling = experiment.sampling
    asked = {"sampling": (sampling.sigma_max, sampling.sigma_min)}
    asked |= {"motion.own_outputs": (own.sigma_max, own.sigma_min)} if own.share else {}
    for where, sigmas in asked.items():
        try:
            check_sigmas(diffusion, *sigmas)
        except ValueError as error:
            raise InputError(f"experiments.{experiment.name}.{where}.{error}") from None


def _classes(experiment: Experiment, source) -> dict[str, int]:
    """Train clips of each class, in the order of `source.class_names`."""
    names = [source.store.classes[i] for i in source.clips]
    if len(source.class_names) < 2:
        raise InputError(
            f"{source.store.path}: its clips have {len(source.class_names)} class, experiments.{experiment.name}."
            "class_conditioning needs two; put the videos of each class into a folder of its own"
        )
    return {name: names.count(name) for name in source.class_names}


def run_folder(runs: Path, experiment: Experiment, part: str, *facts: object) -> Path:
    """runs/{experiment}/{part}-{hash}: the hash covers what trains, and nothing else."""
    trains = getattr(experiment, part).model_dump(mode="json")
    if trains["training"]["decay"] == "constant":
        del trains["training"]["steps"]  # more steps go on where fewer ended
    return runs / experiment.name / f"{part}-{digest(trains, experiment.seed, experiment.frames, *facts)}"


def train_part(
    params: Params,
    experiment: Experiment,
    part: str,
    frames: Path,
    out: Path,
    runs: Path,
    draw: Callable,
    loss: Callable,
    start: Callable | None = None,
    **notes: str,
) -> None:
    """Train one part of an experiment and write `out` (safetensors), `{part}_loss.csv` and `{part}_run.json` beside it.

    What a run cost has a file of its own: the weights stay a function of what they were trained from, byte for byte.
    """
    check_file(out)
    facts, running = getattr(experiment, part).training, experiment.running
    # A SpyNet with a pyramid by size leaves its finer levels out.
    by_size = part == "motion" and experiment.motion.spynet_levels == "by-size"
    device = machine.prepare(experiment.seed, running.gpus)
    machine.set_tf32(device, facts.precision)
    accelerator = accelerator_of(device, unused=by_size, log_with=tracker() if running.dvclive else None)
    world, rank = accelerator.num_processes, accelerator.process_index
    if running.processes not in (1, world):
        raise InputError(
            f"experiments.{experiment.name}.running: asks for {running.processes} processes, {world} here; run it by "
            f"snakemake, or: torchrun --standalone --nproc-per-node {running.processes} -m vidm.cli train {part} ..."
        )
    for each in ("content", "motion"):  # the other one is trained next, perhaps days from now
        batch = getattr(experiment, each).training.batch
        if batch % (world * running.accumulation) and not getattr(experiment, f"{each}_of"):
            raise InputError(
                f"experiments.{experiment.name}.{each}.training.batch: {batch} is not a multiple of {world} processes"
                f" x {running.accumulation} parts (running.accumulation)"
            )
    check_levels(experiment)
    with open_store(experiment, params, frames) as store:
        source = draw(store)
        classes = _classes(experiment, source) if experiment.class_conditioning else {}
        if classes:  # the hash of the data has no labels
            clips = ((store.hashes[i], store.splits[i], store.classes[i]) for i in range(len(store)))
            notes["labels_sha256"] = digest(sorted(clips))
        network = trained.build(part, getattr(experiment, part), store.resolution, experiment.frames, len(classes))
        for module in network.modules():
            if isinstance(module, Stage):
                module.checkpointing = running.gradient_checkpointing
        if start:
            start(network, source)
        about = {
            "part": part,
            "experiment": experiment.name,
            "facts": getattr(experiment, part).model_dump(mode="json"),
            "size": store.resolution,
            "frames": experiment.frames,
            "classes": classes,
            "ema": facts.ema,
            "precision": machine.precision(accelerator.device, facts.precision),
            "seed": experiment.seed,
            "data_sha256": store.sha256,
            "data_origin": store.origin,
            "model_version": params.model_version,
            "vidm": __version__,
            "torch": torch.__version__,
        } | notes

        def save(network, path: Path, step: int, **more: float) -> None:
            trained.save(network, path, about | {"step": step, "samples": step * facts.batch} | more)

        pinned = accelerator.device.type == "cuda"
        workers = running.workers
        if workers is None:
            workers = machine.loaders(accelerator.device, max(1, world // running.nodes))
        task = Task(
            name=f"{experiment.name} {part}",
            facts=facts,
            seed=experiment.seed,
            batches=lambda step: batches(source, facts.batch, step, facts.steps, workers, rank, world, pinned),
            loss=loss,
            check=_unchanged(frames),
            preview=Preview(source, getattr(experiment, part), bool(classes), experiment.seed).draw,
            snapshot=lambda network, path, step, hours: save(network, path, step, device_hours=round(hours, 6)),
        )
        folder = run_folder(
            runs, experiment, part, store.resolution, classes, store.sha256, notes, params.model_version
        )
        checkpoints = Checkpoints(folder, running.keep)
        with checkpoints.locked() if accelerator.is_main_process else nullcontext():
            try:
                fitted = fit(network, task, running, folder, accelerator)
            except OSError as error:
                raise InputError(f"{error.filename or frames}: can't be read or written any more ({error})") from None
            except torch.OutOfMemoryError:
                parts = running.accumulation
                raise InputError(
                    f"experiments.{experiment.name}.running: the GPU has no memory for {facts.batch // world // parts} "
                    f"items at once; accumulation: {2 * parts} (now {parts}) has half as many, and "
                    "gradient_checkpointing: true needs less for each; the same command goes on then"
                ) from None
            if not accelerator.is_main_process:
                return
            save(fitted.ema, out, facts.steps)
            fitted.curve.export(out.with_name(f"{part}_loss.csv"))
            with replacing(out.with_name(f"{part}_run.json")) as temporary:
                cost = _cost(fitted, facts, accelerator)
                temporary.write_text(json.dumps(cost, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            checkpoints.finish(facts.steps)


def _cost(fitted: Fitted, facts: Training, accelerator: Accelerator) -> dict[str, float | int | str | None]:
    """What the run came to, over all its restarts; no times where it ended before they were kept."""
    device, known = accelerator.device, fitted.seconds > 0
    return {
        "step": facts.steps,
        "samples": facts.steps * facts.batch,
        "loss": round(fitted.curve.smoothed, 6) if math.isfinite(fitted.curve.smoothed) else None,
        "wall_seconds": round(fitted.seconds, 1) if known else None,
        "device_hours": round(fitted.device_seconds / 3600, 4) if known else None,
        "devices": accelerator.num_processes,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def _unchanged(path: Path) -> Callable[[], None]:
    """A check that the file is still the one that it was."""

    def state() -> tuple[int, int]:
        found = path.stat()
        return found.st_size, found.st_mtime_ns

    before = state()

    def check() -> None:
        try:
            same = state() == before
        except OSError:
            raise InputError(f"{path}: gone while it was trained on; put it back and run the same command") from None
        if not same:
            raise InputError(
                f"{path}: changed while it was trained on; run the same command to train on what it is now"
            )

    return check
