"""The facts of an experiment: params.yaml, read, merged and checked.

One file serves Snakemake (configfile), DVC (params) and this package. An experiment is a deep merge of the
presets it names, in order, and its own keys; the last one wins. What comes out is frozen.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from vidm.errors import InputError

NAME = r"^[a-z0-9-]+$"
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class ConfigError(InputError):
    """A fault in params.yaml, as one line: key, value, nearest valid one."""


class Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Procedural(Facts):
    """The embedded sky, used when the raw folder has no video."""

    seed: int = 0
    train: Positive = 512
    test: Positive = 256
    size: Positive = 128
    frames: Positive = 32
    fps: Positive = 25


class Dataset(Facts):
    """What is extracted from a folder of videos into `data/frames/{dataset}.h5`."""

    raw: str = Field(description="folder of videos, below the project")
    resolution: Positive = Field(description="side of a square frame, pixels")
    stride: Positive = Field(1, description="keep every k-th frame")
    min_frames: Positive = Field(16, description="shorter clips are dropped, counted after the stride")
    max_frames: Positive | None = Field(None, description="longer clips are cut into pieces of this length")
    resize: Literal["area", "bilinear", "bicubic", "lanczos"] = "area"
    test_fraction: Fraction = Field(
        1 / 3, description="of a folder without train/ and test/, by a hash of the bytes"
    )
    procedural: Procedural | None = None

    @model_validator(mode="after")
    def _stays_inside(self) -> Dataset:
        raw = Path(self.raw)
        if raw.is_absolute() or ".." in raw.parts:
            raise ValueError(
                f"raw = '{self.raw}' must be a path below the project; nearest: 'data/raw/{raw.name}'"
            )
        return self


def _descending_sizes(multipliers: tuple[int, ...]) -> tuple[int, ...]:
    if not multipliers or min(multipliers) < 1:
        raise ValueError("needs at least one level, each of 1 or more; nearest: [1, 2, 2]")
    return multipliers


class Network(Facts):
    """The U-Net of Dhariwal & Nichol (2021), content and motion alike."""

    channels: Positive = 128
    multipliers: Annotated[tuple[int, ...], AfterValidator(_descending_sizes)] = (1, 1, 2, 2, 4, 4)
    blocks: Positive = Field(2, description="residual blocks per level")
    attention: tuple[Positive, ...] = Field((16,), description="feature sizes (pixels) with self-attention")
    head_channels: Positive = Field(64, description="channels of one attention head")
    dropout: Fraction = 0.0

    @model_validator(mode="after")
    def _heads_divide(self) -> Network:
        if self.channels % min(self.channels, 32):
            raise ValueError(
                f"channels = {self.channels} is not a multiple of 32 (group norm); nearest: {round(self.channels / 32) * 32}"
            )
        for width in {self.channels * m for m in self.multipliers}:
            if width % self.head_channels and (
                self.attention or width == self.channels * self.multipliers[-1]
            ):
                raise ValueError(
                    f"head_channels = {self.head_channels} does not divide {width}; nearest: {self.channels}"
                )
        return self


class Diffusion(Facts):
    steps: Positive = 1000
    schedule: Literal["linear", "cosine"] = "linear"
    prediction: Literal["eps", "v"] = "eps"
    loss: Literal["charbonnier", "mse"] = "charbonnier"
    eta: float = Field(1e-8, ge=0, description="of the Charbonnier penalty, Eq. 4")


class Training(Facts):
    steps: Positive = 400_000
    batch: Positive = 48
    lr: float = Field(2e-5, gt=0)
    warmup: Annotated[int, Field(ge=0)] = 0
    decay: Literal["constant", "cosine"] = "constant"
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    ema: float = Field(0.9999, ge=0, lt=1)
    flip: bool = Field(True, description="mirror half of the items, all frames of a triplet alike")
    precision: Literal["fp32", "bf16"] = "bf16"


class Content(Facts):
    """One frame from noise: Eqs. 3-4."""

    constant: bool = Field(True, description="the learnable constant c, concatenated to x_t")
    network: Network = Network()
    diffusion: Diffusion = Diffusion()
    training: Training = Training()


class Motion(Facts):
    """Frame n from frames 0 and n-1: Eqs. 5-9, Algorithms 1 and 2."""

    network: Network = Network()
    diffusion: Diffusion = Diffusion()
    training: Training = Training()
    posgn: bool = Field(True, description="PosGN; off: AdaGN on t alone")
    implicit: bool = Field(True, description="the motion code z, concatenated to x_t")
    residual: Literal["features", "none"] = Field(
        "features", description="how the residual encoder of x0 enters"
    )
    spynet: Literal["basicvsr", "none"] = Field(
        "basicvsr", description="pretrained start of the motion code's network"
    )
    conditioning_noise: Fraction = Field(
        0.0, description="x(n-1) + U(0, this) * noise in training, n > 1; 0 = paper"
    )


class Sampling(Facts):
    videos: Positive = 2048
    sheet: Positive = Field(16, description="videos that are also written as mp4 and drawn")
    sampler: Literal["ddim", "ddpm"] = "ddpm"
    content_steps: Positive = 100
    steps: Positive = Field(100, description="denoising steps of each further frame")
    eta: Fraction = Field(1.0, description="of DDIM: 0 deterministic, 1 as noisy as DDPM")
    clip: bool = Field(True, description="clip the predicted x0 to [-1, 1]")
    noise_correlation: Fraction = Field(
        0.0, description="of the initial noise between a video's frames; 0 = paper"
    )
    batch: Positive = 16
    precision: Literal["fp32", "bf16"] = "bf16"


class Metrics(Facts):
    protocols: Annotated[tuple[str, ...], Field(min_length=1)] = ("styleganv",)
    videos: Positive | None = Field(None, description="fewer than the protocol asks; the report says so")


class Experiment(Facts):
    name: str = Field(pattern=NAME)
    dataset: str
    seed: int = 0
    frames: Annotated[int, Field(ge=2)] = Field(16, description="the time grid of the motion network")
    content: Content = Content()
    motion: Motion = Motion()
    sampling: Sampling = Sampling()
    metrics: Metrics = Metrics()


class Params(Facts):
    model_version: int
    datasets: dict[str, Dataset]
    experiments: dict[str, Experiment]

    def dataset(self, name: str) -> Dataset:
        return self.datasets[_known(name, self.datasets, "dataset")]

    def experiment(self, name: str) -> Experiment:
        return self.experiments[_known(name, self.experiments, "experiment")]


def _known(name: str, among: Mapping[str, Any], what: str) -> str:
    if name in among:
        return name
    raise ConfigError(f"{what} '{name}' is not in params.yaml{_nearest(name, among)}")


def _nearest(word: str, among) -> str:
    close = difflib.get_close_matches(str(word), [str(a) for a in among], n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(sorted(map(str, among)))}"


def _merge(base: Mapping, over: Mapping) -> dict:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def resolve(raw: Mapping[str, Any], source: str = "params.yaml") -> Params:
    """Merge presets into experiments and check everything. `raw` is the parsed params.yaml.

    Raises ConfigError: one line with the key, the value and the nearest valid one.
    """
    known = {"model_version", "presets", "datasets", "experiments"}
    for key in raw:
        if key not in known:
            raise ConfigError(f"{source}: unknown key '{key}'{_nearest(key, known)}")
    presets = raw.get("presets") or {}
    experiments, origins = {}, {}
    for name, own in (raw.get("experiments") or {}).items():
        own = dict(own or {})
        names = own.pop("preset", [])
        layers = []
        for preset in [names] if isinstance(names, str) else names:
            if preset not in presets:
                raise ConfigError(
                    f"{source}: experiments.{name}.preset: no preset '{preset}'{_nearest(preset, presets)}"
                )
            layers.append((f"presets.{preset}", presets[preset] or {}))
        layers.append((f"experiments.{name}", own))
        merged: dict = {"name": name}
        for _, layer in layers:
            merged = _merge(merged, layer)
        experiments[name], origins[name] = merged, layers
    document = {
        "model_version": raw.get("model_version"),
        "datasets": raw.get("datasets") or {},
        "experiments": experiments,
    }
    try:
        params = Params.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_first(error, document, origins)}") from None
    for experiment in params.experiments.values():
        _possible(experiment, params, source)
    return params


def load(path: str | Path = "params.yaml") -> Params:
    """Read and check a params file. Raises ConfigError."""
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; run from the project's root or give --params") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path}: expected keys 'datasets' and 'experiments'")
    return resolve(raw, str(path))


def _possible(experiment: Experiment, params: Params, source: str) -> None:
    """Combinations that no single field can see."""
    where = f"{source}: experiments.{experiment.name}"
    if experiment.dataset not in params.datasets:
        raise ConfigError(
            f"{where}.dataset: no dataset '{experiment.dataset}'{_nearest(experiment.dataset, params.datasets)}"
        )
    dataset = params.datasets[experiment.dataset]
    for part in ("content", "motion"):
        network = getattr(experiment, part).network
        factor = 2 ** (len(network.multipliers) - 1)
        if dataset.resolution % factor:
            nearest = max(1, round(dataset.resolution / factor)) * factor
            raise ConfigError(
                f"{where}.{part}.network.multipliers: resolution {dataset.resolution} of dataset "
                f"'{experiment.dataset}' can't be halved {len(network.multipliers) - 1} times; nearest resolution: {nearest}"
            )
        sizes = [dataset.resolution // 2**level for level in range(len(network.multipliers))]
        for size in network.attention:
            if size not in sizes:
                nearest = min(sizes, key=lambda s: abs(s - size))
                raise ConfigError(
                    f"{where}.{part}.network.attention: no feature map has size {size}; nearest: {nearest}"
                )
        diffusion = getattr(experiment, part).diffusion
        key = "content_steps" if part == "content" else "steps"
        if getattr(experiment.sampling, key) > diffusion.steps:
            raise ConfigError(
                f"{where}.sampling.{key}: {getattr(experiment.sampling, key)} is more than the "
                f"{diffusion.steps} steps of {part}.diffusion; nearest: {diffusion.steps}"
            )
    shortest = dataset.min_frames
    if experiment.frames > shortest:
        raise ConfigError(
            f"{where}.frames: {experiment.frames} is more than the {shortest} frames that clips of dataset "
            f"'{experiment.dataset}' are sure to have (min_frames); nearest: {shortest}"
        )
    if dataset.procedural and dataset.procedural.frames // dataset.stride < dataset.min_frames:
        raise ConfigError(
            f"{source}: datasets.{experiment.dataset}.procedural.frames: {dataset.procedural.frames} at stride "
            f"{dataset.stride} is less than min_frames = {dataset.min_frames}; nearest: {dataset.min_frames * dataset.stride}"
        )


def _first(error: ValidationError, document: Mapping, origins: Mapping) -> str:
    """The first fault of a pydantic error, in one line."""
    fault = error.errors()[0]
    loc, value = list(fault["loc"]), fault.get("input")
    key = ".".join(map(str, loc))
    if len(loc) > 2 and loc[0] == "experiments":
        for origin, layer in reversed(origins.get(loc[1], [])):
            if _has(layer, loc[2:]):
                key = ".".join([origin, *map(str, loc[2:])])
                break
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key{_nearest(loc[-1], _fields(loc[:-1]))}"
    if fault["type"] == "missing":
        return f"{key}: missing"
    if fault["type"] == "literal_error":
        options = [o.strip(" '") for o in fault["ctx"]["expected"].replace(" or ", ",").split(",")]
        return f"{key}: '{value}' is not one of {', '.join(options)}{_nearest(value, options)}"
    message = fault["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(value, Mapping) else f"{value!r}: "
    return f"{key}: {shown}{message[0].lower()}{message[1:]}{_bound(fault)}"


def _bound(fault: Mapping) -> str:
    ctx = fault.get("ctx") or {}
    for name, step in (("ge", 0), ("le", 0), ("gt", 1), ("lt", -1)):
        if isinstance(ctx.get(name), int) or (name in ctx and step == 0):
            return f"; nearest: {ctx[name] + step}"
    return ""


def _has(layer: Any, loc: list) -> bool:
    for key in loc:
        if not isinstance(layer, Mapping) or key not in layer:
            return False
        layer = layer[key]
    return True


def _fields(loc: list) -> list[str]:
    """The keys allowed at a place, by walking the models."""
    models: Any = Params
    for key in loc:
        if isinstance(models, type) and issubclass(models, Facts) and key in models.model_fields:
            models = models.model_fields[key].annotation
            for inner in getattr(models, "__args__", ()):
                if isinstance(inner, type) and issubclass(inner, Facts):
                    models = inner
    return [k for k in getattr(models, "model_fields", {}) if k != "name"]


def schema() -> dict:
    """JSON schema of params.yaml as written: presets and experiments may leave any key out."""
    whole = Params.model_json_schema()
    definitions = whole["$defs"]
    for name, definition in definitions.items():
        if name not in {"Dataset", "Procedural"}:
            definition.pop("required", None)
    experiment = definitions["Experiment"]
    experiment["properties"].pop("name")
    preset = json.loads(json.dumps(experiment))
    experiment["properties"]["preset"] = {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        "description": "presets to start from; the last one wins",
    }
    definitions["Preset"] = preset | {"title": "Preset"}
    names = {"pattern": NAME}
    whole["properties"]["presets"] = {"type": "object", "additionalProperties": {"$ref": "#/$defs/Preset"}}
    for key in ("datasets", "experiments"):
        whole["properties"][key]["propertyNames"] = names
    whole["additionalProperties"] = False
    whole["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    whole["title"] = "params.yaml"
    return whole


def digest(*facts: Any) -> str:
    """A short hash of facts: what decides whether two runs are the same run."""

    def plain(value):
        return value.model_dump(mode="json") if isinstance(value, BaseModel) else value

    text = json.dumps([plain(f) for f in facts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
