"""Facts said in short: their hash, and how they differ from the paper."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel

from vidm import faults
from vidm.config.facts import Experiment


def unlike_paper(experiment: Experiment) -> list[str]:
    """Every switch that is not as in the paper, by its key in params.yaml: `key: value`.

    The defaults are the paper's. Sizes, training and the SpyNet file are not switches.
    """
    groups = [
        ("content", experiment.content, {"network", "training", "diffusion"}),
        ("content.diffusion", experiment.content.diffusion, {"steps"}),
        ("motion", experiment.motion, {"network", "training", "diffusion", "spynet", "own_outputs"}),
        ("motion.own_outputs", experiment.motion.own_outputs, set()),
        ("motion.diffusion", experiment.motion.diffusion, {"steps"}),
    ]
    found = [
        f"{where}.{key}: {faults.shown(value)}"
        for where, facts, apart in groups
        for key, value in facts
        if key not in apart and value != type(facts).model_fields[key].default
    ]
    sampling = experiment.sampling
    switches = {key: getattr(sampling, key) for key in ("noise_correlation", "sigma_max", "sigma_min")}
    return found + [f"sampling.{key}: {value}" for key, value in switches.items() if value]


def digest(*facts: Any) -> str:
    """A short hash of facts: what decides whether two runs are the same run."""

    def plain(value):
        return value.model_dump(mode="json") if isinstance(value, BaseModel) else value

    text = json.dumps([plain(f) for f in facts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
