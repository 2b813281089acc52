"""What no single field can see: facts that do not go together, and networks that experiments share."""

from __future__ import annotations

from collections.abc import Mapping

from vidm import faults
from vidm.config.described import digest
from vidm.config.facts import Experiment, Params
from vidm.faults import ConfigError
from vidm.protocols import PROTOCOLS


def check(experiment: Experiment, params: Params) -> None:
    """Combinations that no single field can see."""
    where, name = f"experiments.{experiment.name}", experiment.dataset
    if name not in params.datasets:
        raise ConfigError(f"{where}.dataset: no dataset '{name}'{faults.nearest(name, params.datasets)}")
    dataset = params.datasets[name]
    for part, steps in (("content", "content_steps"), ("motion", "steps")):
        facts = getattr(experiment, part)
        halvings = len(facts.network.multipliers) - 1
        if dataset.resolution % 2**halvings:
            nearest = max(1, round(dataset.resolution / 2**halvings)) * 2**halvings
            raise ConfigError(
                f"{where}.{part}.network.multipliers: {faults.shown(facts.network.multipliers)} halves "
                f"{halvings} times, which resolution {dataset.resolution} of dataset '{name}' can't be; "
                f"nearest resolution: {nearest}"
            )
        sizes = [dataset.resolution // 2**level for level in range(halvings + 1)]
        for size in facts.network.attention:
            if size not in sizes:
                raise ConfigError(
                    f"{where}.{part}.network.attention: no feature map has size {size}; "
                    f"nearest: {min(sizes, key=lambda s: abs(s - size))}"
                )
            fault = facts.network.heads_fault(sizes.index(size))
            if fault:
                raise ConfigError(f"{where}.{part}.network.{fault}")
        asked, there = getattr(experiment.sampling, steps), facts.diffusion.steps
        if asked > there:
            raise ConfigError(
                f"{where}.sampling.{steps}: {asked} is more than the {there} steps of {part}.diffusion; "
                f"nearest: {there}"
            )
    for part in ("content", "motion"):
        _shared(experiment, params, part)
    known = {**PROTOCOLS, **params.protocols}
    for k, protocol in enumerate(experiment.metrics.protocols):
        if protocol not in known:
            raise ConfigError(
                f"{where}.metrics.protocols.{k}: no protocol '{protocol}'{faults.nearest(protocol, known)}"
            )
    if experiment.motion.own_outputs.share and experiment.frames < 3:
        raise ConfigError(
            f"{where}.motion.own_outputs.share: with frames = {experiment.frames} there is no frame between the first "
            "and the last to be made; nearest: 0, or frames: 3"
        )
    sampling = experiment.sampling
    if sampling.frames and sampling.frames > experiment.frames and not sampling.time_grid:
        raise ConfigError(
            f"{where}.sampling.frames: {sampling.frames} is more than the {experiment.frames} frames of the motion "
            "network's time grid; say what those beyond are: time_grid: clamp or stretch"
        )
    if experiment.frames > dataset.min_frames:
        raise ConfigError(
            f"{where}.frames: {experiment.frames} is more than the {dataset.min_frames} frames that clips of "
            f"dataset '{name}' are sure to have (min_frames); nearest: {dataset.min_frames}"
        )


def check_measurable(experiment: Experiment, params: Params) -> None:
    """Before hours of training for a distance that none of its videos can have. Raises ConfigError."""
    where, sampling, metrics = f"experiments.{experiment.name}", experiment.sampling, experiment.metrics
    frames, videos = sampling.frames or experiment.frames, sampling.videos
    known = {**PROTOCOLS, **params.protocols}
    for k, name in enumerate(metrics.protocols):
        if known[name].span > frames:
            raise ConfigError(
                f"{where}.metrics.protocols.{k}: windows of '{name}' span {known[name].span} frames, and its videos "
                f"have {frames} (sampling.frames, or frames); take another one, or sample longer videos"
            )
    counts = {"sampling.videos": videos, "metrics.videos": metrics.videos, "metrics.motion_only": metrics.motion_only}
    for key, count in counts.items():
        if count == 1:
            raise ConfigError(f"{where}.{key}: 1 video has no covariance, and so no FVD; nearest: 2")


def _decides(part: str) -> tuple[str, ...]:
    """The facts of an experiment that decide about this network."""
    return ("dataset", "seed", "class_conditioning", part, *(("frames",) if part == "motion" else ()))


def _shared(experiment: Experiment, params: Params, part: str) -> None:
    """Another experiment's network must be what this one would have trained."""
    name, key = getattr(experiment, f"{part}_of"), f"{part}_of"
    if name is None:
        return
    where = f"experiments.{experiment.name}.{key}"
    others = {k: v for k, v in params.every.items() if getattr(v, key) is None and k != experiment.name}
    if name not in others:
        raise ConfigError(f"{where}: no experiment '{name}' that trains one{faults.nearest(name, others)}")
    for fact in _decides(part):
        if getattr(experiment, fact) != getattr(others[name], fact):
            raise ConfigError(
                f"{where}: '{name}' has another {fact}; make them the same, or drop {key} to train one's own"
            )


def sharing(cells: Mapping[str, Experiment]) -> dict[str, Experiment]:
    """Each network is trained by the first cell that has it, and taken by those after it."""
    trained: dict[str, str] = {}
    found = {}
    for name, e in cells.items():
        of = {}
        for part in ("content", "motion"):
            first = trained.setdefault(digest(part, *(getattr(e, fact) for fact in _decides(part))), name)
            if first != name:
                of[f"{part}_of"] = first
        found[name] = e.model_copy(update=of)
    return found
