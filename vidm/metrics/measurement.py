"""What clips measure by one protocol: the distance of the generated ones from the real ones, how far it can be
trusted, and what it can be read against.

All against the same n real clips, all of n clips:

    floor        real clips held out (of the other split): what a perfect model would get
    static       the first frame of each of those, repeated: right pictures, no motion
    shuffled     those with their frames in another order: right pictures, wrong motion
    self_static  the first frame of each generated clip, repeated: does the model's motion help at all
    noise        independent uniform uint8 noise, seeded: the far end
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidm.errors import InputError
from vidm.metrics import frechet, kernel, over_time, sources, statistics
from vidm.metrics.clipset import ClipSet, cut, drawn, held_out
from vidm.metrics.features import Chances, Job, Logits, Pooled, Series, look_up, one_pass
from vidm.metrics.i3d import CLASSES, I3D
from vidm.metrics.inception import DIMENSIONS, Inception
from vidm.metrics.inception_score import inception_score
from vidm.metrics.over_time import OverTime
from vidm.progress import bar
from vidm.protocols import Protocol

NOISE_SEED = 0
KID_SUBSET, KID_SUBSETS = 1000, 100


@dataclass(frozen=True)
class Extras:
    """What is measured beside the distance itself. `inception`: FID and KID on this many frames of each clip;
    classifier: (TorchScript module, its sha256, its file's name), for the Inception score."""

    baselines: bool = False
    shuffled: bool = False
    self_static: bool = True
    inception: Inception | None = None
    frames_per_clip: int = 1
    classifier: tuple[Any, str, str] | None = None


class Plan:
    """Everything that is to be computed, so that each clip is read once and nothing is computed twice."""

    def __init__(self, device: torch.device, cache: Path | None) -> None:
        self.device, self.cache = device, cache
        self.jobs: dict[tuple, Job] = {}

    def job(self, clips: ClipSet, rows: list[int], series: Series) -> Job:
        key = (id(clips.source), clips.digest(rows), json.dumps(series.facts, sort_keys=True))
        return self.jobs.setdefault(key, Job(clips, rows, series, self.device.type))

    def run(self, description: str, shown: bool = True) -> None:
        """Every job gets its result, from the cache or from one pass; with a progress bar for what takes time."""
        jobs = list(self.jobs.values())
        look_up(jobs, self.cache)
        work = sum(job.work for job in jobs)
        if not (work and shown):
            one_pass(jobs, self.cache, lambda cost, note: None)
            return
        with bar(round(work), description, "clips") as progress:
            done = 0.0

            def advance(cost: float, note: str) -> None:
                nonlocal done
                before, done = round(done), done + cost
                if round(done) > before:
                    progress.advance(round(done) - before, note)

            one_pass(jobs, self.cache, advance)


class Measurement:
    """One protocol's part: it puts its jobs into a plan, and makes its part of the report after the plan has run.

    held: real clips that are not among `real`; without them, n windows of `real` of clips that are not measured, where
    there are so many.
    test: the test split, whichever is real, for how it looks over time and the leak check; without one, the former is
    that of `held`.
    whole: features of every window of `real`, not only of those that the distance takes.
    """

    def __init__(
        self,
        rules: Protocol,
        sets: dict[str, ClipSet],
        asked: int | None,
        model: I3D,
        extras: Extras,
        plan: Plan,
        whole: bool = False,
        test: ClipSet | None = None,
    ) -> None:
        self.rules, self.sets, self.model, self.extras, self.plan = rules, sets, model, extras, plan
        self.n = n = common(sets, asked or rules.videos)
        real, fake, self.held = sets["real"], sets["fake"], sets.get("held")
        self.trials = list(zip(drawn(real, n), drawn(fake, n), strict=True))
        first_real, first_fake = self.trials[0]
        if self.held is not None:
            self.held_rows = held_out(self.held, n)
        else:
            self.held_rows = held_out(real, n, first_real)
            self.held = real if len(self.held_rows) == n else None
        self.test = (test, held_out(test, n)) if test else None
        rows = [range(len(real))] if whole else [r for r, _ in self.trials]
        self.real = self.logits(real, sorted(set().union(*rows)))
        self.fake = self.logits(fake, sorted(set().union(*(f for _, f in self.trials))))
        self.others: dict[str, Job] = {}
        self.frame_by_frame = {"samples": self.each_frame(fake, first_fake)}
        if self.held is not None and (extras.baselines or "held" in sets):
            self.others["floor"] = self.logits(self.held, self.held_rows)
        if moving := self.test or ((self.held, self.held_rows) if "floor" in self.others else None):
            self.frame_by_frame["test"] = self.each_frame(*moving)
        if extras.baselines:
            if "floor" in self.others:
                self.others["static"] = self.logits(self.held, self.held_rows, "static")
                if extras.shuffled:
                    self.others["shuffled"] = self.logits(self.held, self.held_rows, "shuffled")
            if extras.self_static:
                self.others["self_static"] = self.logits(fake, first_fake, "static")
            noise = cut(sources.noise(n, rules.span, real.source.size, NOISE_SEED), rules)
            self.others["noise"] = self.logits(noise, list(range(n)))
        three = {"real": (real, first_real), "fake": (fake, first_fake)}
        three |= {"held": (self.held, self.held_rows)} if "floor" in self.others else {}
        self.frames, self.chances = {}, {}
        for name, where in three.items():
            if extras.inception:
                pooled = Pooled(extras.inception, rules.frames, extras.frames_per_clip)
                self.frames[name] = plan.job(*where, pooled)
            if extras.classifier and name != "held":
                chances = Chances(*extras.classifier[:2], rules.frames, plan.device)
                self.chances[name] = plan.job(*where, chances)

    def logits(self, clips: ClipSet, rows: list[int], kind: str = "as they are") -> Job:
        return self.plan.job(clips, rows, Logits(self.model, self.rules, kind))

    def each_frame(self, clips: ClipSet, rows: list[int]) -> Job:
        return self.plan.job(clips, rows, OverTime(self.rules.frames, self.plan.device))

    def leak(self, train: ClipSet, whole: bool) -> tuple[Job, Job | None]:
        """Jobs of the leak check: windows of the train split, all or as many as the distance takes; of the test split.

        Raises InputError below 2 of them.
        """
        rows = range(len(train)) if whole else set().union(*drawn(train, common({"train": train}, self.n)))
        return self.logits(train, sorted(rows)), self.logits(*self.test) if self.test else None

    def _clips(self) -> list[list[int]]:
        """The clip of each window of the first trial, on both sides."""
        sides = zip((self.sets["real"], self.sets["fake"]), self.trials[0], strict=True)
        return [[clips.windows[k][0].index for k in rows] for clips, rows in sides]

    def of(self, real: np.ndarray, fake: np.ndarray) -> float:
        """The protocol's distance of features (N,400) and (M,400)."""
        return frechet.distance(real, fake, self.rules.ddof, self.rules.root)

    def report(self) -> dict[str, Any]:
        """The part of a report that depends on the protocol."""
        pairs = [(rows_of(self.real, r), rows_of(self.fake, f)) for r, f in self.trials]
        real, fake = pairs[0]
        trials = statistics.spread([self.of(*pair) for pair in pairs])
        against = {name: job.result for name, job in self.others.items()}
        found = {
            "fvd": trials["mean"],
            "protocol": self.rules.facts(),
            "n": self.n,
            "trials": trials,
            "interval": statistics.jackknife(real, fake, self.of, clips=self._clips()),
            "against_n": statistics.against_n(real, fake, self.of, self.rules.seed),
            "kvd": kernel.mmd2(real, fake),
            "baselines": {name: self.of(real, other) for name, other in against.items()},
            "held_out": self.held.source.split if "floor" in against else None,
            "motion": {name: over_time.motion(job.result) for name, job in self.frame_by_frame.items()},
            "too_short": {name: clips.short for name, clips in self.sets.items()},
            "detector": {"name": self.rules.detector, "sha256": self.model.sha256, "precision": self.model.precision},
            "input": {"dtype": "uint8", "rounding": "frames are uint8 when read; none after the resize"},
            "warnings": self.cautions(),
        }
        if "test" in self.frame_by_frame:
            found["over_time"] = over_time.ratios(*(self.frame_by_frame[k].result for k in ("samples", "test")))
            others = "the test clips" if self.test else "the real videos held out"
            found["warnings"] += over_time.cautions(found["over_time"], others)
        if "floor" in against:
            found["kvd_floor"] = kernel.mmd2(real, against["floor"])
        return found | self._frame_metrics() | self._score()

    def _frame_metrics(self) -> dict[str, Any]:
        """FID and KID, where asked for."""
        if not self.frames:
            return {}
        flat = {name: job.result.reshape(-1, DIMENSIONS) for name, job in self.frames.items()}
        count = len(flat["real"])
        size = max(2, min(KID_SUBSET, count // 2))
        mean, std = kernel.over_subsets(
            flat["real"], flat["fake"], kernel.seeded_subsets(count, count, size, KID_SUBSETS)
        )
        fid = {
            "value": frechet.distance(flat["real"], flat["fake"], 1),
            "frames": count,
            "frames_per_clip": self.extras.frames_per_clip,
            "resize": "bilinear-tf1, whole frame to 299 x 299",
            "range": "grey level / 128 - 1",
            "layer": "2048 pooled features",
            "ddof": 1,
            "detector": {"name": "inception-2015-12-05", "sha256": self.extras.inception.sha256},
        }
        if "held" in flat:
            fid["floor"] = frechet.distance(flat["real"], flat["held"], 1)
        return {"fid": fid, "kid": {"mean": mean, "std": std, "subset": size, "subsets": KID_SUBSETS}}

    def _score(self) -> dict[str, Any]:
        """The Inception score, where there is a classifier."""
        if not self.chances:
            return {}
        _, digest, name = self.extras.classifier
        mean, std = inception_score(self.chances["fake"].result)
        real, _ = inception_score(self.chances["real"].result)
        about = {"file": name, "sha256": digest, "classes": int(self.chances["fake"].result.shape[1])}
        return {"inception_score": {"mean": mean, "std": std, "real": real, "clips": self.n, "classifier": about}}

    def cautions(self) -> list[str]:
        rules, n, said = self.rules, self.n, []
        if n < CLASSES:
            said.append(
                f"n = {n} is below the {CLASSES} dimensions of the features: the covariances are rank-deficient; "
                "compare with values at the same n only"
            )
        if n < rules.videos:
            said.append(f"{n} videos of each set, the protocol asks for {rules.videos}")
        if self.extras.baselines and "floor" not in self.others:
            real = self.sets["real"]
            videos = len({clip.index for clip, _ in real.windows})
            said.append(
                f"no floor and no static: {real.name} has {videos} videos, and "
                + (
                    f"{n} held out beside the {n} measured are {2 * n}; give more, or measure {videos // 2}"
                    if videos == len(real)
                    else f"those with no measured window have fewer than {n}; give more, or measure fewer"
                )
            )
        if rules.trials > 1 and n == len(self.sets["real"]) == len(self.sets["fake"]):
            said.append(f"all {rules.trials} trials are of the same windows: there are no more than {n}")
        if not rules.resize_verified:
            said.append(
                "the resize inside the original of this protocol can't be read; plain bilinear is the best known"
            )
        sizes = {name: clips.source.size for name, clips in self.sets.items()}
        if sizes["real"] != sizes["fake"]:
            shown = "{0[1]} x {0[0]} and {1[1]} x {1[0]}".format(sizes["real"], sizes["fake"])
            said.append(f"real and generated frames are {shown} pixels; how sharp they are is a part of the distance")
        for name, clips in self.sets.items():
            if clips.short:
                said.append(
                    f"{clips.short} videos of {name} are shorter than the {rules.span} frames of a window and were "
                    "dropped"
                )
            if name != "held":  # of the same store as the real ones
                reasons = clips.source.facts()["dropped_why"]
                said += [f"{count} of {name} dropped: {reason}" for reason, count in reasons.items()]
        count = n * self.extras.frames_per_clip
        if self.extras.inception and count < DIMENSIONS:
            said.append(f"FID of {count} frames, below its {DIMENSIONS} dimensions: compare at the same count only")
        if self.model.precision != "fp32":
            said.append(f"the detector ran in {self.model.precision}; report values of fp32")
        return said


def over_seeds(found: list[dict[str, Any]]) -> dict[str, Any]:
    """What replaces and joins the first report where there are several, of samples of a seed each: `fvd` is their mean,
    and `seeds` has value by value, mean and standard deviation, of the other metrics too. All else is the first's.
    """
    if len(found) < 2:
        return {}
    spreads = {
        key: statistics.spread([of(report) for report in found])
        for key, of in statistics.METRICS.items()
        if key in found[0]
    }
    fvd = spreads.pop("fvd")
    return {"fvd": fvd["mean"], "seeds": fvd | spreads}


def common(sets: dict[str, ClipSet], asked: int) -> int:
    """min(asked, what each set has). Raises InputError below 2."""
    for clips in sets.values():
        if len(clips) < 2:
            rule, short = clips.protocol, ""
            if clips.short:
                short = f", {clips.short} more have fewer frames than the {rule.span} of protocol {rule.name}"
            why = "; ".join(
                f"{count} dropped: {reason}" for reason, count in clips.source.facts()["dropped_why"].items()
            )
            raise InputError(
                f"{clips.name}: {len(clips)} videos{short}{f' ({why})' if why else ''}; a covariance, and so an FVD, "
                "needs 2 or more"
            )
    n = min(asked, *map(len, sets.values()))
    if n < 2:
        raise InputError(f"{n} videos asked for; an FVD needs 2 or more")
    return n


def rows_of(job: Job, rows: list[int]) -> np.ndarray:
    """A job's results for these windows, all of them among its own."""
    place = {k: row for row, k in enumerate(job.rows)}
    return job.result[[place[k] for k in rows]]
