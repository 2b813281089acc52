"""What an experiment's clips measure by one protocol: the distance of the samples, and of four baselines.

All against the same n real clips (train split, one window each), all of n clips:

    floor        the test clips: what a perfect model would get
    static       the first frame of each test clip, repeated: right pictures, no motion
    self_static  the first frame of each generated clip, repeated: does the model's motion help at all
    noise        independent uniform uint8 noise, seeded: the far end

Each clip is read once. What does not depend on a model is kept in runs/features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidm.data.store import FrameStore
from vidm.errors import InputError
from vidm.metrics import clipset
from vidm.metrics.clipset import ClipSet
from vidm.metrics.features import Extractor, Kept, distance, motion
from vidm.metrics.i3d import CLASSES, I3D, load_i3d
from vidm.metrics.protocol import Protocol
from vidm.progress import Bar

NOISE_SEED = 0


class Measurement:
    """One protocol's part of an evaluation: what is kept already, what has to be computed."""

    def __init__(
        self,
        rules: Protocol,
        data: FrameStore,
        generated: FrameStore,
        asked: int | None,
        detector: Path | None,
        device: torch.device,
    ) -> None:
        self.rules = rules
        self.asked = asked or rules.videos
        self.sets = {
            "train": clipset.from_store(data, rules, "train"),
            "test": clipset.from_store(data, rules, "test"),
            "fake": clipset.from_store(generated, rules, None),
        }
        self.n = common(self.sets, self.asked)
        self.size = data.shape
        self.model = load_i3d(detector, device, eps=rules.batch_norm_eps)
        about = {
            "protocol": rules.facts(),
            "detector": self.model.sha256,
            "n": self.n,
            "torch": torch.__version__,
            "device": device.type,
            "threads": torch.get_num_threads(),
        }
        self.kept = {
            "train": Kept({**about, "set": "train", "data": data.sha256}),
            "test": Kept({**about, "set": "test and static", "data": data.sha256}),
            "noise": Kept({**about, "set": "noise", "seed": NOISE_SEED, "size": list(self.size)}),
        }
        self.known = {name: kept.read() for name, kept in self.kept.items()}
        passes = {"train": 1, "test": 2, "noise": 1}
        self.work = self.n * (2 + sum(passes[k] for k, v in self.known.items() if v is None))

    def run(self, progress: Bar) -> dict[str, Any]:
        """The part of the report that depends on the protocol."""
        rules, n = self.rules, self.n
        real = self._once("train", progress, ("features",))
        test = self._once("test", progress, ("features", "static"), moving=True)
        noise = self._once("noise", progress, ("features",))
        fake = self._pass("fake", progress, ("features", "static"), moving=True)

        def against(features: np.ndarray) -> float:
            return distance(real["features"], features, rules)

        return {
            "fvd": against(fake["features"]),
            "protocol": rules.facts(),
            "n": n,
            "baselines": {
                "floor": against(test["features"]),
                "static": against(test["static"]),
                "self_static": against(fake["static"]),
                "noise": against(noise["features"]),
            },
            "motion": {"samples": float(fake["motion"].mean()), "test": float(test["motion"].mean())},
            "too_short": {name: clips.short for name, clips in self.sets.items()},
            "detector": detector_facts(self.model),
            "warnings": cautions(rules, n, self.sets),
        }

    def _once(self, name: str, progress: Bar, series: tuple[str, ...], moving: bool = False) -> dict:
        if self.known[name] is None:
            self.known[name] = self._pass(name, progress, series, moving)
            self.kept[name].write(self.known[name])
        return self.known[name]

    def _pass(self, name: str, progress: Bar, series: tuple[str, ...], moving: bool = False) -> dict:
        """Read each clip of a set once: features, those of its first frame repeated, and its motion."""
        extractor = Extractor(self.model, self.rules, lambda k: progress.advance(k, name))
        motions = []
        for k in range(self.n):
            clip = self._noise(k) if name == "noise" else self.sets[name].read(k)
            for kind in series:
                extractor.add(kind, clip, still=kind == "static")
            if moving:
                motions.append(motion(clip))
        found = {kind: extractor.features(kind) for kind in series}
        return found | ({"motion": np.array(motions)} if moving else {})

    def _noise(self, k: int) -> np.ndarray:
        rng = np.random.default_rng([NOISE_SEED, k])
        return rng.integers(0, 256, (self.rules.frames, *self.size, 3), dtype=np.uint8)


def common(sets: dict[str, ClipSet], asked: int) -> int:
    """min(asked, what each set has). Raises InputError below 2."""
    for clips in sets.values():
        if len(clips) < 2:
            short = f", {clips.short} more have fewer frames than a window" if clips.short else ""
            raise InputError(f"{clips.name}: {len(clips)} videos{short}; an FVD needs 2 or more")
    n = min(asked, *map(len, sets.values()))
    if n < 2:
        raise InputError(f"{n} videos asked for; an FVD needs 2 or more")
    return n


def cautions(rules: Protocol, n: int, sets: dict[str, ClipSet]) -> list[str]:
    said = []
    if n < CLASSES:
        said.append(
            f"n = {n} is below the {CLASSES} dimensions of the features: the covariances are rank-deficient; "
            "compare with values at the same n only"
        )
    if n < rules.videos:
        said.append(f"{n} videos of each set, the protocol asks for {rules.videos}")
    if not rules.resize_verified:
        said.append("the resize inside the original of this protocol can't be read; plain bilinear is the best known")
    said += [
        f"{clips.short} videos of {name} are shorter than the {rules.span} frames of a window and were dropped"
        for name, clips in sets.items()
        if clips.short
    ]
    return said


def detector_facts(model: I3D) -> dict[str, str]:
    return {"name": "i3d-kinetics-400", "sha256": model.sha256}
