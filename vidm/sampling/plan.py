"""What is to be sampled: an experiment's facts and what a call asks beside them, checked before work starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidm import machine
from vidm.config import Experiment, Params, Sampling, digest
from vidm.diffusion.schedule import check_sigmas
from vidm.errors import InputError
from vidm.faults import nearest
from vidm.models import trained
from vidm.sampling import given as givens
from vidm.sampling import groups
from vidm.sampling.given import Given
from vidm.sampling.noise import VideoNoise, label_of

# What does not decide about a video.
APART = {"videos", "seeds", "frames", "time_grid", "sheet", "batch", "group", "shards"}

TRAINING = {"training", "spynet", "spynet_finetuned"}  # facts that leave no trace in a network's structure


@dataclass(frozen=True)
class Wish:
    """What a call asks beside the experiment's facts.

    videos (of each seed), seed, frames: in the place of the experiment's. most: like videos, but fewer where the first
    frames given are fewer. beyond: `clamp` or `stretch`, what frames beyond the trained grid mean. first: a folder of
    images or a store, whose frames are frame 0. further: a store, whose clips go on. motions: videos of each frame 0.
    cls: one class for all. size: pixels, where it is not the networks' own. shard: (k, shards), 1-based.
    """

    videos: int | None = None
    most: int | None = None
    seed: int | None = None
    frames: int | None = None
    beyond: str | None = None
    first: Path | None = None
    further: Path | None = None
    motions: int = 1
    cls: str | None = None
    size: int | None = None
    shard: tuple[int, int] | None = None


@dataclass(frozen=True)
class Plan:
    """The same, decided. `numbers`: the videos of this call; `total`: those of all shards.

    Videos of several seeds have one row of numbers, seed after seed, `each` videos of every one: number k is video
    k % each of seed k // each.
    """

    experiment: Experiment
    facts: Sampling
    content: nn.Module | None
    motion: nn.Module
    checkpoints: dict[str, dict[str, Any]]
    classes: dict[str, int]
    """{name: clips}, empty without class conditioning."""
    seeds: tuple[int, ...]
    each: int
    numbers: range
    frames: int
    beyond: str | None
    size: int
    wish: Wish
    given: Given | None
    unlike: dict[str, list[str]]
    """{part: facts in which its network is not what the experiment would train}."""

    @property
    def total(self) -> int:
        return self.each * len(self.seeds)

    def address(self, k: int) -> tuple[int, int]:
        """(seed, video) of number k."""
        return self.seeds[k // self.each], k % self.each

    def content_of(self, k: int) -> int:
        """The first frame, of those given, that number k begins with."""
        return self.address(k)[1] // self.wish.motions

    @property
    def settings(self) -> dict[str, Any]:
        """What the report says under `sampling`."""
        w, device = self.wish, next(self.motion.parameters()).device
        # Of the networks themselves: params.yaml may say otherwise by now.
        content = {} if self.content is None else {"prediction": self.content.facts.diffusion.prediction}
        facts = self.facts.model_dump(mode="json", exclude=APART) | {
            "seeds": {"seed": self.seeds[0], "videos": [self.numbers.start, self.numbers.stop - 1], **self._several},
            "frames": self.frames,
            "device": device.type,
            "precision": machine.precision(device, self.facts.precision),
            "motion": {
                "conditioning_noise": self.motion.facts.conditioning_noise,
                "prediction": self.motion.facts.diffusion.prediction,
                "target": self.motion.facts.target,
            },
            "content": content,
        }
        asked = {
            "time_grid": self.beyond,
            "class": w.cls,
            "size": w.size,
            "motions": w.motions if w.motions > 1 else None,
            "networks_unlike_params": self.unlike or None,
        }
        if self.given is not None:
            asked["given"] = {"frames": self.given.frames, "sha256": self.given.sha256}
        if self.classes:
            facts["classes"] = len(self.classes)
        return facts | {key: value for key, value in asked.items() if value is not None}

    @property
    def _several(self) -> dict[str, Any]:
        return {"seeds": list(self.seeds), "each": self.each} if len(self.seeds) > 1 else {}

    @property
    def run(self) -> str:
        """A short hash of all that decides about the videos, the same for all shards."""
        settings = self.settings | {"seeds": self._several or self.seeds[0], "device": ""}
        return digest(settings, self.checkpoints)

    @property
    def nbytes(self) -> int:
        """Of the videos of this call, as they are written."""
        return len(self.numbers) * self.frames * self.size**2 * 3

    def noises(self, group: range) -> list[VideoNoise]:
        correlation, motions, found = self.facts.noise_correlation, self.wish.motions, []
        for seed, k in map(self.address, group):
            found.append(VideoNoise(seed, k, self.size, correlation, k // motions * motions))
        return found

    def labels(self, group: range) -> list[int] | None:
        """A class for each video: the asked one, its given clip's, or drawn; an index into `classes`."""
        if not self.classes:
            return None
        names, counts = list(self.classes), list(self.classes.values())
        if self.wish.cls is not None:
            return [names.index(self.wish.cls)] * len(group)
        if self.given is not None:
            return [names.index(self.given.classes[self.content_of(k)]) for k in group]
        motions = self.wish.motions
        return [label_of(seed, k // motions * motions, counts) for seed, k in map(self.address, group)]


def shard_of(text: str) -> tuple[int, int] | None:
    """(2, 4) of "2/4"; None of "". Raises InputError."""
    if not text:
        return None
    parts = text.split("/")
    if len(parts) != 2 or not all(p.isdecimal() for p in parts):
        raise InputError(f"--shard '{text}': is not K/N, such as 1/4")
    return int(parts[0]), int(parts[1])


def plan(params: Params, experiment: str, content: Path | None, motion: Path, wish: Wish, device: torch.device) -> Plan:
    """Load the networks, that of content only where it makes frame 0, and check everything that can be.

    Raises InputError.
    """
    e = params.experiment(experiment)
    checkpoints, unlike, content_network = {}, {}, None
    if wish.first is not None and not wish.first.is_file():
        givens.images(wish.first)  # a name that is wrong is said before networks are loaded
    if wish.first is not None or wish.further is not None:
        content = None  # it makes nothing, so that nothing may say it did
    if content is not None:
        content_network, content_notes = trained.load(content, "content", device)
        _fit(params, e, content, content_notes)
        checkpoints["content"] = _facts(content, content_notes)
        unlike |= _unlike(content_network, e, "content")
    motion_network, notes = trained.load(motion, "motion", device)
    _fit(params, e, motion, notes)
    checkpoints["motion"] = _facts(motion, notes)
    unlike |= _unlike(motion_network, e, "motion")
    size, grid = notes["size"], notes["frames"]
    given = _given(wish, wish.size or size)
    if content is not None:
        if content_notes["classes"] != notes["classes"]:
            raise InputError(
                f"{content} and {motion}: trained with other classes "
                f"({len(content_notes['classes'])} and {len(notes['classes'])}); train again"
            )
    elif given is None:
        raise InputError("--content: is needed where no first frames are given (--first, --continue)")
    if grid != e.frames:
        raise InputError(
            f"{motion}: trained for {grid} frames, experiments.{e.name}.frames is {e.frames}; set it to {grid}, or "
            "train again"
        )
    facts, frames = e.sampling, wish.frames or e.sampling.frames or e.frames
    try:
        check_sigmas(motion_network.facts.diffusion, facts.sigma_max, facts.sigma_min)
    except ValueError as error:
        raise InputError(f"experiments.{e.name}.sampling.{error}") from None
    beyond = wish.beyond or (facts.time_grid if frames > grid else None)
    if frames > grid and beyond is None:
        raise InputError(
            f"--frames {frames}: {motion} knows {grid} frames; say what those beyond are: "
            "--time-grid clamp (all like the last) or stretch (the grid spread over the video)"
        )
    if wish.cls is not None and wish.cls not in notes["classes"]:
        raise InputError(f"--class {wish.cls}: {motion} does not know it{nearest(wish.cls, notes['classes'])}")
    seeds = (facts.seeds or (e.seed,)) if wish.seed is None else (wish.seed,)
    most = wish.most or facts.videos
    each = wish.videos or (most if given is None else min(most, len(given) * wish.motions))
    side = _side(wish, size, motion_network, content_network, given)
    if given is not None:
        _enough(given, wish, each, frames, notes["classes"])
    total = each * len(seeds)
    numbers = range(total)
    if wish.shard is not None:
        k, shards = wish.shard
        if not 1 <= k <= shards <= total:
            raise InputError(f"--shard {k}/{shards}: is not K/N with 1 <= K <= N <= {total}, the number of videos")
        numbers = groups.shard(total, k, shards)
    return Plan(
        e, facts, content_network, motion_network, checkpoints, notes["classes"], seeds, each, numbers, frames, beyond,
        side, wish, given, unlike,
    )  # fmt: skip


def _facts(path: Path, notes: dict[str, Any]) -> dict[str, Any]:
    return {"sha256": trained.file_sha256(path), "step": notes["step"], "ema": notes["ema"]}


def _fit(params: Params, e: Experiment, path: Path, notes: dict[str, Any]) -> None:
    size = params.dataset(e.dataset).resolution
    if notes["size"] != size:
        raise InputError(f"{path}: trained at {notes['size']} pixels, dataset '{e.dataset}' has {size}; train again")


def _unlike(network: nn.Module, e: Experiment, part: str) -> dict[str, list[str]]:
    """{part: keys} where the network is another one than the experiment's; how it was trained is left out."""

    def flat(facts: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        nested = (flat(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}": v} for k, v in facts.items())
        return {k: v for each in nested for k, v in each.items()}

    have, said = (flat(facts.model_dump(mode="json", exclude=TRAINING)) for facts in (network.facts, getattr(e, part)))
    keys = sorted(key for key in have.keys() | said.keys() if have.get(key) != said.get(key))
    return {part: keys} if keys else {}


def _given(wish: Wish, side: int) -> Given | None:
    if wish.first is not None and wish.further is not None:
        raise InputError("--first and --continue: one of them")
    if wish.first is not None:
        return givens.first_frames(wish.first, side)
    return None if wish.further is None else givens.whole_clips(wish.further)


def _side(wish: Wish, size: int, motion: nn.Module, content: nn.Module | None, given: Given | None) -> int:
    """The frames' side, pixels."""
    side = wish.size or size
    least = 2 ** (len(motion.facts.network.multipliers) - 1)
    if side % least:
        raise InputError(f"--size {side}: the network halves it to whole numbers only for multiples of {least}")
    if given is not None and given.size != side:
        raise InputError(
            f"{given.path}: frames are {given.size} x {given.size}, to be sampled are {side} x {side}; scale them, or "
            f"give --size {given.size}"
        )
    if given is None and side != size and content.constant is not None:
        raise InputError(f"--size {side}: the content network's constant c has {size} pixels; give frames with --first")
    return side


def _enough(given: Given, wish: Wish, total: int, frames: int, classes: dict[str, int]) -> None:
    if total > len(given) * wish.motions:
        raise InputError(
            f"{given.path}: {len(given)} clips or images, {wish.motions} videos of each (--motions), are fewer than "
            f"the {total} asked (--videos)"
        )
    if given.frames >= frames:
        raise InputError(f"{given.path}: has {given.frames} frames already; ask for more with --frames")
    unknown = [c for c in given.classes[: -(-total // wish.motions)] if c not in classes]
    if classes and wish.cls is None and unknown:
        raise InputError(f"{given.path}: the network knows no class '{unknown[0]}'; give one with --class")
