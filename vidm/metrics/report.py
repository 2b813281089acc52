"""Fréchet video distances with everything that makes them readable: protocol, baselines, provenance.

    fvd          two arrays -> a value
    between      two sets of videos -> a value and a report
    evaluate     an experiment -> results/{experiment}_fvd.json

`evaluate` measures baselines, too: see `vidm.metrics.baselines`.
"""

from __future__ import annotations

import json as jsonlib
import platform
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from vidm import __version__, machine
from vidm.config import Params, unlike_paper
from vidm.data.store import FrameStore
from vidm.errors import InputError
from vidm.files import replacing
from vidm.metrics import clipset
from vidm.metrics import protocol as protocols
from vidm.metrics.baselines import Measurement, cautions, common, detector_facts
from vidm.metrics.clipset import ClipSet
from vidm.metrics.features import Extractor, distance
from vidm.metrics.i3d import I3D, load_i3d
from vidm.metrics.protocol import Protocol
from vidm.metrics.summary import compare, summary
from vidm.progress import bar

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

    def __float__(self) -> float:
        return self.value


def fvd(
    real: np.ndarray,
    fake: np.ndarray,
    protocol: str = "styleganv",
    *,
    detector: str | Path | None = None,
    device: str | torch.device | None = None,
) -> FVD:
    """The FVD of two arrays of videos, each (N,T,H,W,3) uint8, by a named protocol.

    Videos longer than the protocol's window are cut to one window each; where one side has more videos, or more
    than the protocol asks, as many as the smaller side are taken, by content. `detector` is the file of
    `vidm weights fetch i3d`; without one it is fetched. Raises InputError: dtype, shape, fewer than 2 videos
    that are long enough, an unknown protocol.
    """
    rules = protocols.find(protocol)
    sets = {
        "real": clipset.from_array(real, rules, "real"),
        "fake": clipset.from_array(fake, rules, "fake"),
    }
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return _measure(sets, rules, load_i3d(detector, device, eps=rules.batch_norm_eps))


def between(real: Path, fake: Path, protocol: str = "styleganv", json: Path | None = None) -> str:
    """The FVD of two sets of videos (see `clipset.open_set`) as text; the whole report goes to `json`.

    Of a store with splits, `real` is its train split. Raises InputError.
    """
    if protocol == "help":
        return protocols.table()
    rules = protocols.find(protocol)
    device = machine.prepare()
    sets = {"real": clipset.open_set(real, rules, "train"), "fake": clipset.open_set(fake, rules)}
    model = load_i3d(device=device, eps=rules.batch_norm_eps)
    found = _measure(sets, rules, model, shown=True)
    report = {
        "fvd": found.value,
        "protocol": rules.facts(),
        "n": found.n,
        "data": _source(sets["real"]),
        "fake": _source(sets["fake"]),
        "detector": detector_facts(model),
        "versions": _versions(device),
        "warnings": list(found.warnings),
    }
    if json is not None:
        _write(Path(json), report)
    return summary(report)


def evaluate(
    params: Params, experiment: str, frames: Path, samples: Path, out: Path, detector: Path | None = None
) -> str:
    """Write an experiment's report to `out` (JSON) and return its summary.

    Real are windows of the train split of the store `frames`, fakes those of `samples`, the store that
    `vidm sample` wrote. The report has the value by the experiment's first protocol, its baselines, the motion of
    samples and test clips, and where everything comes from; under `also`, the same by each further protocol.
    The same input gives the same file. `comparable_with_paper` is false: a program can't know that data and
    split are the paper's. Raises InputError.
    """
    e = params.experiment(experiment)
    device = machine.prepare(e.seed)
    rules = [protocols.find(name) for name in e.metrics.protocols]
    made = _made_by(samples)
    with FrameStore(frames) as data, FrameStore(samples) as generated:
        if data.shape != generated.shape:
            raise InputError(
                f"{samples}: frames are {generated.shape[1]} x {generated.shape[0]}, those of {frames} are "
                f"{data.shape[1]} x {data.shape[0]}; sample again"
            )
        plans = [Measurement(r, data, generated, e.metrics.videos, detector, device) for r in rules]
        with bar(sum(p.work for p in plans), f"{e.name} fvd", "clips") as progress:
            parts = [p.run(progress) for p in plans]
        source = {
            "source": data.origin,
            "sha256": data.sha256,
            "dropped": data.dropped,
            "resolution": data.resolution,
        }
    about = {"data": source, **made, "beyond_the_paper": unlike_paper(e), "versions": _versions(device)}
    caution = "numbers on the embedded sky are not comparable with the paper's"
    reports = []
    for part in parts:
        whole = {"experiment": e.name, **part, **about, "comparable_with_paper": False}
        whole["warnings"] = [*whole.pop("warnings"), *([caution] if data.origin == "procedural" else [])]
        reports.append(whole)
    report = {**reports[0], "also": reports[1:]}
    _write(Path(out), report)
    return summary(report)


def _measure(sets: dict[str, ClipSet], rules: Protocol, model: I3D, shown: bool = False) -> FVD:
    n = common(sets, rules.videos)
    with bar(2 * n, "fvd", "clips") if shown else nullcontext() as progress:
        extractor = Extractor(model, rules, progress.advance if progress else None)
        for name, clips in sets.items():
            for k in range(n):
                extractor.add(name, clips.read(k))
        value = distance(extractor.features("real"), extractor.features("fake"), rules)
    return FVD(value, rules, n, model.sha256, tuple(cautions(rules, n, sets)))


def _made_by(samples: Path) -> dict[str, Any]:
    """`checkpoints` and `sampling` as `vidm sample` noted them in its store."""
    try:
        with h5py.File(samples, "r") as file:
            return {key: jsonlib.loads(file.attrs[key]) for key in ("checkpoints", "sampling")}
    except FileNotFoundError:
        raise InputError(f"{samples}: no such file; make it with vidm sample") from None
    except (OSError, KeyError, ValueError):
        raise InputError(f"{samples}: not a store that vidm sample wrote; make it again") from None


def _source(clips: ClipSet) -> dict[str, Any]:
    return {"source": clips.source, "sha256": clips.sha256, "dropped": clips.dropped, "too_short": clips.short}


def _versions(device: torch.device) -> dict[str, str]:
    return {
        "vidm": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": device.type,
    }


def _write(path: Path, report: dict[str, Any]) -> None:
    text = jsonlib.dumps(report, indent=2, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
