"""Fréchet video distances with everything that makes them readable: protocol, baselines, provenance.

fvd          two arrays -> a value
between      sets of videos -> a report
evaluate     an experiment -> results/{experiment}_fvd.json
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidm import machine, weights
from vidm.config import Params, unlike_paper
from vidm.data.store import FrameStore
from vidm.errors import InputError
from vidm.files import check_file
from vidm.metrics import clipset, motion_only, nearest, over_time, provenance, sources
from vidm.metrics.compare import compare
from vidm.metrics.i3d import I3D, load_i3d
from vidm.metrics.inception import load_inception
from vidm.metrics.inception_score import checked, load_classifier
from vidm.metrics.kept import FOLDER
from vidm.metrics.measurement import Extras, Measurement, Plan, over_seeds
from vidm.metrics.motion_only import MotionOnly
from vidm.metrics.protocol import preprocess
from vidm.metrics.sources import Source
from vidm.metrics.summary import summary
from vidm.protocols import Protocol, find, table

__all__ = ["FVD", "between", "compare", "evaluate", "fvd"]


@dataclass(frozen=True)
class FVD:
    """A Fréchet video distance and what it was made of. n: videos of each side."""

    value: float
    protocol: Protocol
    n: int
    detector: str
    """sha256 of the detector's weights."""
    warnings: tuple[str, ...]
    report: dict[str, Any]
    """All of it: interval, the value against N, KVD, trials."""

    def __float__(self) -> float:
        return self.value


def fvd(
    real: np.ndarray | Sequence[np.ndarray],
    fake: np.ndarray | Sequence[np.ndarray],
    protocol: str | Protocol = "styleganv",
    *,
    detector: str | Path | None = None,
    device: str | torch.device | None = None,
) -> FVD:
    """The FVD of two sets of videos by a named protocol, or one of your own: (N,T,H,W,3) uint8, or lists of (T,H,W,3).

    Videos longer than the protocol's window are cut to one window each; where one side has more videos, or more
    than the protocol asks, as many as the smaller side are taken, by content. `detector` is the file of
    `vidm weights fetch i3d`; without one it is fetched. Raises InputError: dtype, shape, fewer than 2 videos
    that are long enough, an unknown protocol.
    """
    rules = protocol if isinstance(protocol, Protocol) else find(protocol)
    sets = {name: clipset.cut(sources.from_arrays(v, name), rules) for name, v in (("real", real), ("fake", fake))}
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    plan = Plan(torch.device(device), None)
    part = Measurement(rules, sets, None, load_i3d(detector, device, eps=rules.batch_norm_eps), Extras(), plan)
    plan.run("fvd", shown=False)
    found = part.report()
    return FVD(found["fvd"], rules, part.n, part.model.sha256, tuple(found["warnings"]), found)


def between(
    real: Path,
    fakes: Sequence[Path],
    protocols: Sequence[str] = ("styleganv",),
    *,
    more: dict[str, Protocol] | None = None,
    json: Path | None = None,
    videos: int | None = None,
    size: int | None = None,
    fast: bool = False,
    baselines: bool = False,
    fid: int = 0,
    classifier: Path | None = None,
    cache: Path | None = None,
) -> str:
    """The FVD of sets of videos (see `clipset.open_source`) as text; the whole report goes to `json`.

    Several `fakes` are samples of several seeds: the value is their mean. Several protocols share one pass over the
    frames; the first one's report holds the others under `also`. more: protocols of params.yaml. size: scale and
    crop the videos of folders. fid: frames of each clip for FID and KID. cache: folder of features, None for none.
    Of a store with splits, `real` is the protocol's. Raises InputError.
    """
    if "help" in protocols:
        return table(more or {})
    if json is not None:
        check_file(Path(json))
    rules = [find(name, more or {}) for name in protocols]
    device = machine.prepare()
    if fast and not machine.has_bf16(device.type):
        print("vidm fvd: --fast is left out: this device does not compute in bf16, fp32 is faster", file=sys.stderr)
        fast = False
    models = _detectors(rules, device, fast)
    splits = {r.split for r in rules}
    real_source = {s: clipset.open_source(real, rules, None if s == "all" else s, size, cache) for s in splits}
    fake_sources = [clipset.open_source(path, rules, None, size, cache) for path in fakes]
    extras = Extras(
        baselines=baselines,
        shuffled=baselines,
        inception=load_inception(device=device) if fid else None,
        frames_per_clip=fid,
        classifier=_classifier(classifier, None, device, rules[0], fake_sources[0]),
    )
    plan, parts = Plan(device, cache), []
    for rule in rules:
        cuts = [clipset.cut(source, rule) for source in fake_sources]
        asked = min([videos or rule.videos, *(len(c) for c in cuts if len(c) > 1)])
        base = clipset.cut(real_source[rule.split], rule)
        own = extras if rule is rules[0] else Extras(baselines=baselines, shuffled=baselines)
        parts.append(
            [Measurement(rule, {"real": base, "fake": c}, asked, models[rule.batch_norm_eps], own, plan) for c in cuts]
        )
    plan.run("fvd")
    reports = []
    for each in parts:
        found = [part.report() for part in each]
        about = {
            "data": _about(each[0].sets["real"].source, real),
            "fake": _about(fake_sources[0], fakes[0]),
            "versions": provenance.versions(device),
        }
        if several := over_seeds(found):
            several["seeds"]["fakes"] = [_about(*s) for s in zip(fake_sources, fakes, strict=True)]
            about |= several
        if fast:
            about["fast"] = {"relative_error_of_logits": _error(each[0])}
        reports.append(found[0] | about)
    report = {**reports[0], "also": reports[1:]}
    if json is not None:
        provenance.write(Path(json), report)
    return summary(report)


def evaluate(
    params: Params,
    experiment: str,
    frames: Path,
    samples: Path,
    out: Path,
    detector: Path | None = None,
    inception: Path | None = None,
    pairs: Path | None = None,
    given: Path | None = None,
) -> str:
    """Write an experiment's report to `out` (JSON) and return its summary; the leak check's picture to `pairs` (PNG).

    Real are windows of the train split of the store `frames` (unless the protocol says otherwise), fakes those of
    `samples`, the store that `vidm sample` wrote. Of longer samples the first frames are measured: by a time grid that
    is clamped, what the model makes when it is asked for so many. Of several seeds the value is their mean. The report
    has the value by the experiment's first protocol, its baselines, how samples and test clips change over time, and
    where everything comes from; under `also`, the same by each further protocol, measured in the same pass. given: a
    store of videos that go on from the first frames of the test clips, for `motion_only`. The same input gives the same
    file. `comparable_with_paper` is false: a program can't know that data and split are the paper's. Raises InputError.
    """
    e = params.experiment(experiment)
    for path in (out, pairs):
        if path is not None:
            check_file(Path(path))
    facts, device = e.metrics, machine.prepare(e.seed)
    rules = [find(name, params.protocols) for name in facts.protocols]
    made, begun = provenance.made_by(samples, e.name), given and provenance.made_by(given, e.name)
    with (
        FrameStore(frames) as data,
        FrameStore(samples) as generated,
        FrameStore(given) if given else nullcontext() as further,
    ):
        resolution = params.dataset(e.dataset).resolution
        if data.resolution != resolution:
            raise InputError(
                f"{frames}: frames are {data.resolution} pixels, datasets.{e.dataset}.resolution is {resolution}; "
                "extract again, or name the experiment's own store"
            )
        if data.shape != generated.shape:
            raise InputError(
                f"{samples}: frames are {generated.shape[1]} x {generated.shape[0]}, those of {frames} are "
                f"{data.shape[1]} x {data.shape[0]}; sample again"
            )
        if given:
            motion_only.check(given, begun, data, samples, made)
        models = _detectors(rules, device, path=detector)
        splits = {name: sources.from_store(data, name) for name in ("train", "test", "all")}
        fakes = sources.by_seed(sources.from_store(generated, None), made["sampling"].get("seeds", {}))
        classifier = None if facts.classifier is None else Path(facts.classifier)
        alone = Extras(
            inception=load_inception(inception, device) if facts.fid_frames else None,
            frames_per_clip=facts.fid_frames,
            classifier=_classifier(classifier, facts.classifier_sha256, device, rules[0], fakes[0]),
        )
        against = {"baselines": True, "shuffled": facts.shuffled, "self_static": facts.self_static}
        plan, parts = Plan(device, FOLDER), []
        for rule in rules:
            sets = {"real": clipset.cut(splits[rule.split], rule)}
            if rule.split != "all":
                sets["held"] = clipset.cut(splits["test" if rule.split == "train" else "train"], rule)
            test = clipset.cut(splits["test"], rule)
            start = replace(rule, start="first", windows="one per clip")
            cuts = [sets | {"fake": clipset.cut(fake, start)} for fake in fakes]
            asked = min([facts.videos or rule.videos, *(n for c in cuts if (n := len(c["fake"])) > 1)])
            own = alone if not parts else Extras()
            whole = not parts and rule.split == "train" and facts.nearest_among == "all"
            model = models[rule.batch_norm_eps]
            parts.append(
                [
                    Measurement(rule, each, asked, model, own if k else replace(own, **against), plan, whole, test)
                    for k, each in enumerate(cuts)
                ]
            )
        first = parts[0][0]
        apart = MotionOnly(first, data, splits, further, begun["sampling"]) if given else None
        if pairs is not None:
            # Copies are of training clips, whatever the distance is measured against.
            train, test = first.leak(clipset.cut(splits["train"], rules[0]), facts.nearest_among == "all")
        plan.run(f"{e.name} fvd")
        found = [[part.report() for part in each] for each in parts]
        reports = [each[0] | over_seeds(each) for each in found]
        if apart:
            reports[0]["motion_only"] = apart.report()
            cautions = over_time.cautions(reports[0]["motion_only"]["over_time"])
            reports[0]["warnings"] += [f"with real first frames given, {text}" for text in cautions]
        if pairs is not None:
            near, drawn = nearest.nearest(first.fake, train, test, facts.nearest)
            nearest.draw(pairs, first.fake, train, drawn, near)
            reports[0]["nearest"] = near
        sides = [{**p[0].sets["real"].source.facts(), "id": e.dataset, "resolution": data.resolution} for p in parts]
        about = {
            **made,
            "beyond_the_paper": unlike_paper(e),
            "versions": provenance.versions(device),
            "comparable_with_paper": False,
        }
    said = []
    if data.origin == "procedural":
        said.append("numbers on the embedded sky are not comparable with the paper's")
    if "given" in made["sampling"]:
        said.append("the samples begin with frames that were given: real ones are among what is measured")
    for report in reports:
        report["warnings"] += said
    whole = [{"experiment": e.name, **r, "data": side, **about} for r, side in zip(reports, sides, strict=True)]
    report = {**whole[0], "also": whole[1:]}
    provenance.write(Path(out), report)
    return summary(report)


def _detectors(
    rules: Sequence[Protocol], device: torch.device, fast: bool = False, path: Path | None = None
) -> dict[float, I3D]:
    """One for each batch norm epsilon."""
    models = {eps: load_i3d(path, device, eps=eps) for eps in {r.batch_norm_eps for r in rules}}
    return {eps: model.fast() if fast else model for eps, model in models.items()}


def _classifier(
    path: Path | None, expected: str | None, device: torch.device, rules: Protocol, fake: Source
) -> tuple[Any, str, str] | None:
    if path is None:
        return None
    model, digest = load_classifier(path, device, expected)
    if fake.size is not None:
        checked(model, path, torch.zeros(1, 3, rules.frames, *fake.size, device=device))
    return model, digest, path.name


def _about(source: Source, path: Path) -> dict[str, Any]:
    return {"id": Path(path).name, **source.facts()}


@torch.inference_mode()
def _error(part: Measurement, clips: int = 4) -> float:
    """How far bf16 logits of the first real clips are from fp32 ones: norm of the difference over the norm."""
    exact = load_i3d(device=part.plan.device, eps=part.rules.batch_norm_eps)
    rows = range(min(clips, len(part.real.rows)))
    windows = np.stack([part.real.clips.read(part.real.rows[k]) for k in rows])
    logits = exact(preprocess(windows, part.rules).to(part.plan.device)).cpu().numpy()
    return float(np.linalg.norm(part.real.result[: len(rows)] - logits) / np.linalg.norm(logits))


def cache_folder() -> Path:
    """Where `vidm fvd` keeps features: beside the weights."""
    return weights.folder() / "features"
