"""What may be said in params.yaml, field by field. The defaults are the paper's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vidm import ablations, faults
from vidm.ablations import Ablation
from vidm.faults import ConfigError
from vidm.protocols import OwnProtocol, Protocol

NAME = r"^[a-z0-9-]+$"
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=NAME)]
WEIGHT_FILES = (".safetensors", ".pytorch", ".pth")
SPYNETS = {"procedural": "spynet-procedural", "basicvsr": "spynet"}  # what `vidm weights fetch` calls them
# pydantic writes the pattern of a dict's keys into the schema, and still allows the others.
CLOSED_FACTS = {"json_schema_extra": {"additionalProperties": False}}
CLOSED = Field(**CLOSED_FACTS)


def _no(value: Any) -> bool:
    return not value


class Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
    resize: Literal["area", "bilinear", "bicubic", "lanczos", "centre-crop bilinear", "lanczos then crop"] = Field(
        "area",
        description="a kernel: the short side is scaled by it, then the centre is cut out; centre-crop bilinear: the "
        "other order, without antialias, as DIGAN and VIDM; lanczos then crop: by Pillow, as StyleGAN-V",
    )
    fps: float | None = Field(
        None,
        gt=0,
        description="make the frame rate constant: videos are resampled, folders of pictures taken to have it",
    )
    layout: Literal["detect", "sky-timelapse", "ucf101", "taichi", "clevrer", "frame-folders", "videos"] = Field(
        "detect", description="how the folder is to be read; see docs/data.md"
    )
    fold: Literal[1, 2, 3] = Field(1, description="which of UCF-101's three lists of train and test")
    test_fraction: Fraction = Field(1 / 3, description="of a folder without train/ and test/, by a hash of the bytes")
    procedural: Procedural | None = None

    @model_validator(mode="after")
    def _fits(self) -> Dataset:
        raw = Path(self.raw)
        if raw.is_absolute() or ".." in raw.parts:
            raise ValueError(f"raw: '{self.raw}' is not a path below the project; nearest: 'data/raw/{raw.name}'")
        if self.max_frames and self.max_frames < self.min_frames:
            raise ValueError(f"max_frames: {self.max_frames} is less than min_frames; nearest: {self.min_frames}")
        least = (self.min_frames - 1) * self.stride + 1
        if self.procedural and self.procedural.frames < least:
            raise ValueError(
                f"procedural.frames: {self.procedural.frames} at stride {self.stride} is less than "
                f"min_frames = {self.min_frames}; nearest: {least}"
            )
        return self


class Network(Facts):
    """The U-Net of Dhariwal & Nichol (2021), content and motion alike."""

    channels: Positive = 128
    multipliers: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 1, 2, 2, 4, 4)
    blocks: Positive = Field(2, description="residual blocks per level")
    attention: tuple[Positive, ...] = Field((16,), description="feature sizes (pixels) with self-attention")
    head_channels: Positive = Field(64, description="channels of one attention head")
    groups: Positive = Field(32, description="groups of every group norm")
    dropout: Fraction = 0.0

    @model_validator(mode="after")
    def _heads_divide(self) -> Network:
        if self.channels % self.groups:
            nearest = max(1, round(self.channels / self.groups)) * self.groups
            raise ValueError(
                f"channels: {self.channels} is not a multiple of groups = {self.groups}; nearest: {nearest}"
            )
        if self.channels % 2:
            raise ValueError(
                f"channels: {self.channels} is odd, and the embedding of t has a sine and a cosine of each frequency; "
                f"nearest: {self.channels + 1}"
            )
        # The middle block always attends; which levels do depends on the resolution, see _possible.
        fault = self.heads_fault(len(self.multipliers) - 1)
        if fault:
            raise ValueError(fault)
        return self

    def heads_fault(self, level: int) -> str:
        """What to say where attention can't be at a level of the pyramid, or ""."""
        width = self.channels * self.multipliers[level]
        if width % self.head_channels == 0:
            return ""
        nearest = math.gcd(self.head_channels, self.channels)
        return f"head_channels: {self.head_channels} does not divide width {width}; nearest: {nearest}"


class Diffusion(Facts):
    steps: Positive = 1000
    schedule: Literal["linear", "cosine"] = "linear"
    prediction: Literal["eps", "v", "x0"] = Field(
        "eps", description="what a network puts out: eps as in the paper, v or x0"
    )
    scaled_input: bool = Field(
        False, description="the network sees sqrt(abar_t) x_t, the best linear guess of x0; off: x_t, as in the paper"
    )
    loss: Literal["charbonnier", "mse"] = "charbonnier"
    eta: float = Field(1e-8, ge=0, description="of the Charbonnier penalty, Eq. 4")
    variance: Literal["fixed-small", "fixed-large", "learned-range"] = Field(
        "fixed-small", description="of p(x_{t-1} | x_t); learned-range adds the variational bound to the loss"
    )
    weighting: Literal["none", "p2", "min-snr", "v"] = Field(
        "none", description="of the loss over t; v: as if the error were that of v"
    )
    levels: Literal["uniform", "log-normal"] = Field(
        "uniform",
        description="how training draws t: uniform as in the paper, or ln sigma ~ N(levels_mean, levels_std^2), where "
        "sigma is the noise over the signal",
    )
    levels_mean: float = Field(-0.5, description="log-normal: mean of ln sigma")
    levels_std: float = Field(1.2, gt=0, description="log-normal: standard deviation of ln sigma")
    p2_gamma: float = Field(1.0, ge=0, description="P2: 1 / (k + snr)^gamma")
    p2_k: float = Field(1.0, gt=0)
    min_snr_gamma: float = Field(5.0, gt=0, description="min-SNR: snr cut at this")

    @property
    def channels(self) -> int:
        """What a network puts out: three for the prediction, three more for a learned variance."""
        return 6 if self.variance == "learned-range" else 3


class Training(Facts):
    steps: Positive = 400_000
    batch: Positive = 48
    lr: float = Field(2e-5, gt=0)
    warmup: Annotated[int, Field(ge=0)] = 0
    decay: Literal["constant", "cosine"] = "constant"
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    ema: float = Field(0.9999, ge=0, lt=1)
    # Written only where it is not the default: runs and weights from before it was a switch stay what they are.
    ema_warmup: bool = Field(True, description="the average starts short; off as in the official code", exclude_if=bool)
    flip: bool = Field(True, description="mirror half of the items, all frames of a triplet alike")
    precision: Literal["fp32", "bf16"] = Field("bf16", description="bf16 where the device computes in it, else fp32")


class Content(Facts):
    """One frame from noise: Eqs. 3-4."""

    constant: bool = Field(True, description="the learnable constant c, concatenated to x_t")
    constant_start: Literal["normal", "zeros"] = Field("normal", description="c before training; the paper is silent")
    network: Network = Network()
    diffusion: Diffusion = Diffusion()
    training: Training = Training()


class OwnOutputs(Facts):
    """Training on own outputs: frames n-d .. n-1 of an item are what the network itself makes of the frames before."""

    share: Fraction = Field(0.0, description="of the items with n > 1 that get them; 0: none, as in the paper")
    start: Fraction = Field(0.3, description="from this part of the training on; before, outputs are noise")
    frames: Positive = Field(2, description="made one after the other, at most")
    steps: Positive = Field(2, description="denoising steps of each")
    sigma_max: float = Field(20.0, gt=0, description="noise over signal that they begin at")
    sigma_min: float | None = Field(None, gt=0, description="noise over signal at their last evaluation")


class Motion(Facts):
    """Frame n from frames 0 and n-1: Eqs. 5-9, Algorithms 1 and 2."""

    network: Network = Network()
    diffusion: Diffusion = Diffusion()
    training: Training = Training()
    posgn: bool = Field(True, description="PosGN; off: AdaGN on t alone")
    implicit: bool = Field(True, description="the motion code z, concatenated to x_t")
    previous: bool = Field(False, description="x(n-1) itself concatenated to x_t; the paper shows only its flow")
    residual: Literal["features", "features-n", "output", "none"] = Field(
        "features",
        description="how x0 enters: features of (x0, t), of (x0, t, n) as in the official code, "
        "a second U-Net's output as in Algorithm 1, not at all",
    )
    spynet: str = Field(
        "procedural",
        description="pretrained start of the motion code's network: procedural (ours), basicvsr, none, or a file",
    )
    spynet_range: Literal["unit", "signed"] = Field(
        "unit", description="SpyNet's input: unit [0, 1], signed [-1, 1] as in the official code"
    )
    spynet_levels: Literal["six", "by-size"] = Field(
        "six", description="SpyNet's pyramid; by-size: halved while a side is over 32 pixels, as the original"
    )
    spynet_finetuned: bool = Field(
        True, description="SpyNet learns with the network, as in the paper; off: it stays as it is", exclude_if=bool
    )
    target: Literal["frame", "difference", "warped-difference"] = Field(
        "frame",
        description="what is diffused: frame n as in the paper, its difference to x(n-1), or that to x(n-1) carried on "
        "by its own flow, each over its standard deviation in the training clips",
    )
    velocity_frames: Positive = Field(
        4, description="of warped-difference: x(n-1) moves on as it did on average since this many frames before"
    )
    first_share: Fraction = Field(
        0.0, description="of the items that have n = 1, where the direction is drawn, instead of any n; 0 = paper"
    )
    conditioning_noise: Fraction = Field(0.0, description="x(n-1) + U(0, this) * noise in training, n > 1; 0 = paper")
    conditioning_level: bool = Field(False, description="the strength of that noise is an input; 0 in sampling")
    own_outputs: OwnOutputs = OwnOutputs()

    @property
    def sees_flow(self) -> bool:
        """Whether the network has a SpyNet: for the motion code, or to carry x(n-1)."""
        return self.implicit or self.target == "warped-difference"

    @model_validator(mode="after")
    def _fits(self) -> Motion:
        known = (*SPYNETS, "none")
        if self.conditioning_level and not self.conditioning_noise:
            raise ValueError("conditioning_level: true with conditioning_noise: 0 is always told 0; nearest: false")
        if self.spynet == "none" and self.target == "warped-difference":
            raise ValueError("spynet: none can't carry frames (target: warped-difference); nearest: 'procedural'")
        if self.spynet == "none" and self.sees_flow and not self.spynet_finetuned:
            raise ValueError("spynet_finetuned: false with spynet: none leaves it random; nearest: true")
        if self.spynet in known:
            return self
        path = Path(self.spynet)
        if path.suffix not in WEIGHT_FILES:
            raise ValueError(
                f"spynet: '{self.spynet}' is none of {', '.join(known)}, nor a file ({', '.join(WEIGHT_FILES)})"
                f"{faults.nearest(self.spynet, known)}"
            )
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(
                f"spynet: '{self.spynet}' is not a path below the project; nearest: 'data/weights/{path.name}'"
            )
        return self


Sampler = Literal["ddim", "ddpm", "dpm-solver++", "sde-dpm-solver++", "unipc"]


class Sampling(Facts):
    videos: Positive = 2048
    # Like the two below, written only where it is said: samples from before it was a fact stay what they are.
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (),
        description="so many videos of each; the report then has mean and deviation. Left out: the seed",
        exclude_if=_no,
    )
    frames: Annotated[int, Field(ge=2)] | None = Field(
        None, description="of each video; left out: the time grid's", exclude_if=_no
    )
    time_grid: Literal["clamp", "stretch"] | None = Field(
        None, description="frames beyond the trained grid: like its last, or the grid spread over all", exclude_if=_no
    )
    sheet: Positive = Field(16, description="videos that are also written as mp4 and drawn")
    sampler: Sampler = "ddpm"
    content_sampler: Sampler | None = Field(None, description="of the first frame; left out: the same", exclude_if=_no)
    content_steps: Positive = 100
    steps: Positive = Field(100, description="denoising steps of each further frame")
    sigma_max: float | None = Field(
        None,
        gt=0,
        description="noise over signal that each further frame begins at; left out: the schedule's last, or 164",
        exclude_if=_no,
    )
    sigma_min: float | None = Field(
        None,
        gt=0,
        description="noise over signal at the last evaluation of a further frame, of the solvers in log SNR; left out: "
        "the schedule's first, 0.01. A higher one leaves grain out that a short training can't tell from detail",
        exclude_if=_no,
    )
    eta: Fraction = Field(1.0, description="of ddim alone: 0 deterministic, 1 as noisy as ddpm")
    clip: bool = Field(True, description="clip the predicted x0 to [-1, 1]")
    noise_correlation: Fraction = Field(0.0, description="of the initial noise between a video's frames; 0 = paper")
    batch: Positive = Field(16, description="videos that pass the network at once")
    group: Positive = Field(32, description="videos in flight, batch by batch; a killed run goes on at the next group")
    shards: Positive = Field(1, description="jobs that the videos are spread over")
    precision: Literal["fp32", "bf16"] = Field("bf16", description="bf16 where the device computes in it, else fp32")
    compile: bool = Field(False, description="torch.compile, with CUDA graphs on a GPU; its rounding differs")

    @model_validator(mode="after")
    def _seeds_differ(self) -> Sampling:
        faults.each_once("seeds", self.seeds)
        return self

    @model_validator(mode="after")
    def _shards_have_videos(self) -> Sampling:
        if self.shards > self.videos:
            raise ValueError(f"shards: {self.shards} is more than videos = {self.videos}; nearest: {self.videos}")
        return self


class Metrics(Facts):
    protocols: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("styleganv",), description="named ones, or keys of protocols; the first one's value is the report's"
    )
    videos: Positive | None = Field(None, description="fewer than the protocol asks; the report says so")
    shuffled: bool = Field(True, description="the baseline of held-out clips with their frames in another order")
    self_static: bool = Field(True, description="the baseline of the samples' first frames, repeated", exclude_if=bool)
    nearest: Positive = Field(8, description="samples of the leak check, drawn beside their nearest training clips")
    nearest_among: Literal["all", "measured"] = Field(
        "all", description="every training clip, or only as many as the distance takes"
    )
    motion_only: Annotated[int, Field(ge=0)] = Field(
        0,
        description="so many videos are sampled from real first frames and measured, to see motion by itself; 0: none",
        exclude_if=_no,
    )
    fid_frames: Annotated[int, Field(ge=0)] = Field(0, description="frames of each clip for FID and KID; 0: none")
    classifier: str | None = Field(
        None, description="for the Inception score: a TorchScript file, clip (B,3,T,H,W) in [-1,1] -> class logits"
    )
    classifier_sha256: str | None = Field(None, description="no other file is run")


class Running(Facts):
    """How a training runs. It does not decide what is trained, so a change of it trains nothing again."""

    gpus: Annotated[int, Field(ge=0)] | None = Field(
        None, description="of each node, one process each; 0: none is used; left out: one where there is one"
    )
    nodes: Positive = Field(1, description="more than one: on a SLURM cluster")
    workers: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="processes that prepare batches, for each process that trains; 0: none of their own; left out: for "
        "a GPU one on each core that is free, at most eight, else none",
    )
    accumulation: Positive = Field(1, description="parts that a batch is cut into, where memory is short")
    compile: bool = Field(False, description="torch.compile; its rounding differs")
    gradient_checkpointing: bool = Field(False, description="less memory for a third more time")
    checkpoint_minutes: float = Field(10.0, ge=0, description="between two checkpoints")
    keep: Positive = Field(3, description="checkpoints that stay, beside the one with the lowest loss")
    snapshots: Annotated[int, Field(ge=0)] = Field(
        0, description="copies of the averaged weights along the way, evenly spaced, in runs/; each is a whole file"
    )
    preview_steps: Annotated[int, Field(ge=0)] = Field(500, description="between two pictures in runs/; 0: none")
    bad_steps: Positive = Field(20, description="steps in a row with gradients that are not finite, before it stops")
    dvclive: bool = Field(True, description="curves and pictures for DVC in runs/, where dvclive is installed")

    @property
    def processes(self) -> int:
        """Of all nodes together."""
        return self.nodes * max(1, self.gpus or 1)


class Recipe(Facts):
    """What presets and experiments share."""

    seed: Annotated[int, Field(ge=0)] = 0
    content_of: str | None = Field(None, description="take this experiment's content network: the same facts")
    motion_of: str | None = Field(None, description="take this experiment's motion network: the same facts")
    frames: Annotated[int, Field(ge=2)] = Field(16, description="the time grid of the motion network")
    class_conditioning: bool = Field(False, description="both networks see the clip's class, as for UCF-101")
    content: Content = Content()
    motion: Motion = Motion()
    running: Running = Running()
    sampling: Sampling = Sampling()
    metrics: Metrics = Metrics()


class Experiment(Recipe):
    """Presets and own keys, merged."""

    name: Name
    dataset: str


class Params(Facts):
    """The whole of params.yaml, experiments merged."""

    model_version: int
    protocols: dict[Name, Protocol] = {}
    datasets: dict[Name, Dataset]
    experiments: dict[Name, Experiment]
    ablations: dict[Name, Ablation] = {}
    cells: dict[Name, Experiment] = {}
    """Of all ablations."""

    @property
    def every(self) -> dict[str, Experiment]:
        """The experiments that are written, and the cells of their ablations."""
        return self.experiments | self.cells

    def dataset(self, name: str) -> Dataset:
        return self.datasets[_known(name, self.datasets, "dataset")]

    def experiment(self, name: str) -> Experiment:
        return self.every[_known(name, self.every, "experiment")]

    def ablation(self, name: str) -> Ablation:
        self.experiment(name)
        return ablations.known(name, self.ablations)


class Preset(Recipe):
    """A part of an experiment: any key may be left out."""

    dataset: str = Field("", description="a key of datasets")


class Written(Preset):
    """An experiment as it is written."""

    preset: str | tuple[str, ...] = Field((), description="presets to start from; the last one wins")


class Document(Facts):
    """params.yaml as it is written, before presets are merged. The JSON schema is this model's."""

    model_version: int = Field(description="raised when code changes the numbers; everything is trained again")
    presets: dict[str, Preset] = {}
    protocols: dict[Name, OwnProtocol] = Field({}, description="of FVD, beside the named ones", **CLOSED_FACTS)
    datasets: dict[Name, Dataset] = CLOSED
    experiments: dict[Name, Written] = CLOSED
    ablations: dict[Name, Ablation] = Field({}, description="tables of an experiment's ablations", **CLOSED_FACTS)


def _known(name: str, among: Mapping[str, Any], what: str) -> str:
    if name in among:
        return name
    raise ConfigError(f"{what} '{name}' is not in params.yaml{faults.nearest(name, among)}")
