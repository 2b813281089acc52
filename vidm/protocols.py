"""Named protocols of the Fréchet video distance: every choice that moves the number, as data.

Published FVDs differ in how clips are taken, resized and scaled, and in the statistics; each choice moves the value
by more than most papers' improvements do. `params.yaml` may define further ones, like a named one but for a few
fields. What a protocol does is in `vidm.metrics`.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.dataclasses import dataclass

from vidm.errors import InputError

Positive = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Protocol:
    """How an FVD is made. Field by field: the same value, or the numbers can't be compared."""

    name: str
    about: str = ""
    videos: Positive = 2048
    """How many of each set it asks for."""
    split: Literal["train", "test", "all"] = "train"
    """Of the real videos, where they have splits."""
    frames: Annotated[int, Field(ge=9)] = 16
    """Of a window; the detector needs 9."""
    stride: Positive = 1
    windows: Literal["one per clip", "all, non-overlapping"] = "one per clip"
    start: Literal["random", "first"] = "random"
    """Of the one window in a longer video: seeded and fixed by the clip's content, or frame 0."""
    seed: Annotated[int, Field(ge=0)] = 0
    choice: Literal["by content hash", "by name"] = "by content hash"
    """Which windows are taken first where there are more than needed."""
    trials: Positive = 1
    """Above 1, each trial draws its own windows, seeded; the value is their mean."""
    short: Literal["dropped"] = "dropped"
    """Videos with fewer frames than a window spans; they are counted."""
    kernel: Literal["bilinear", "bilinear-tf1", "bilinear-corners", "bilinear-antialias"] = "bilinear"
    """Sampling at pixel centres without antialias; tf1: at src = dst * in / out; corners: ends on ends."""
    order: Literal["whole", "short-side-then-crop", "crop-then-whole"] = "whole"
    """What becomes 224 x 224. whole: the frame, whatever its shape. Crops are of the centre; nothing is rounded."""
    resize_verified: bool = True
    """False: what the original has inside can't be read, this is the best known."""
    low: float = -1.0
    high: float = 1.0
    """Detector input of grey level 0 and 255."""
    detector: Literal["i3d-kinetics-400"] = "i3d-kinetics-400"
    batch_norm_eps: Annotated[float, Field(gt=0)] = 1e-3
    layer: Literal["logits"] = "logits"
    """400 numbers before the softmax, averaged over time."""
    ddof: Literal[0, 1] = 0
    """Covariance divided by N - ddof."""
    root: Literal["nuclear norm, float64", "SVD, float32"] = "nuclear norm, float64"
    """Of S1 S2. The nuclear norm of factors equals scipy's sqrtm at full rank and keeps its accuracy below;
    SVD in float32 is DIGAN's."""

    @property
    def span(self) -> int:
        """Frames of a video from a window's first to its last."""
        return (self.frames - 1) * self.stride + 1

    def facts(self) -> dict[str, Any]:
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "about"}

    def input_facts(self) -> dict[str, Any]:
        """What decides the detector's features of a given window of frames."""
        names = ("frames", "kernel", "order", "low", "high", "detector", "batch_norm_eps", "layer")
        return {name: getattr(self, name) for name in names}


_STYLEGANV = Protocol(
    name="styleganv",
    about="StyleGAN-V (Skorokhodov et al. 2022), as most papers since: 2048 videos each, 16 frames. The resize is "
    "hidden inside its TorchScript; plain bilinear is the best known",
    resize_verified=False,
)

PROTOCOLS = {
    p.name: p
    for p in (
        _STYLEGANV,
        dataclasses.replace(
            _STYLEGANV,
            name="styleganv-128",
            about="styleganv with windows of 128 frames",
            frames=128,
        ),
        dataclasses.replace(
            _STYLEGANV,
            name="styleganv-16-stride8",
            about="styleganv with 16 frames, every 8th: they span 121",
            stride=8,
        ),
        Protocol(
            name="digan",
            about="DIGAN (Yu et al. 2022): non-overlapping windows of 16 frames, shuffled anew in each of 10 trials; "
            "short side to 224, centre crop; batch norm eps 1e-5",
            windows="all, non-overlapping",
            trials=10,
            order="short-side-then-crop",
            batch_norm_eps=1e-5,
            ddof=1,
            root="SVD, float32",
        ),
        Protocol(
            name="tf",
            about="the original TensorFlow code (Unterthiner et al. 2018), which leaves the choice of clips to its "
            "caller: here as styleganv",
            kernel="bilinear-tf1",
            ddof=1,
        ),
        dataclasses.replace(
            _STYLEGANV,
            name="vidm-paper",
            about="what VIDM's paper says: I3D, 2048 real and 2048 generated videos, 16 frames. It is silent on all "
            "else; here as styleganv, whose numbers it quotes beside its own",
        ),
        Protocol(
            name="vidm-script",
            about="VIDM's own evaluation script, with its bug: pixels reach the detector in [0, 1] instead of "
            "[-1, 1], which about halves the value. Only to compare with numbers made by it",
            choice="by name",
            resize_verified=False,
            low=0.0,
            ddof=1,
        ),
    )
}


def _optional() -> dict[str, Any]:
    """The fields of a protocol of one's own: each may be left out."""
    fields = Protocol.__pydantic_fields__
    return {
        name: (field.annotation | None, Field(None, description=field.description, **_bounds(field)))
        for name, field in fields.items()
        if name != "name"
    }


def _bounds(field: Any) -> dict[str, Any]:
    bounds = {}
    for constraint in field.metadata:
        bounds |= {key: getattr(constraint, key) for key in ("gt", "ge") if hasattr(constraint, key)}
    return bounds


class _Own(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


OwnProtocol = create_model(
    "OwnProtocol",
    __base__=_Own,
    __doc__="A protocol of one's own in params.yaml: like a named one, but for what is said.",
    like=(Literal[tuple(PROTOCOLS)], Field("styleganv", description="the protocol to start from")),
    **_optional(),
)


def own(name: str, written: BaseModel) -> Protocol:
    """The protocol that params.yaml defines under this name."""
    given = {k: v for k, v in written.model_dump(exclude_unset=True).items() if k != "like" and v is not None}
    base = PROTOCOLS[written.like]
    return dataclasses.replace(base, **{"about": f"like {base.name}, by params.yaml"} | given | {"name": name})


def find(name: str, more: Mapping[str, Protocol] = {}) -> Protocol:
    """The protocol of that name, also among `more`. Raises InputError with the nearest one, or all of them."""
    known = {**more, **PROTOCOLS}
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
    raise InputError(f"no protocol '{name}'; {hint}")


def table(more: Mapping[str, Protocol] = {}) -> str:
    """All protocols, for people."""
    lines = []
    for p in {**PROTOCOLS, **more}.values():
        lines += [
            f"{p.name}: {p.about}",
            f"  {p.videos} videos, {p.frames} frames, stride {p.stride}, start {p.start}, {p.windows}, {p.choice}, "
            f"{p.split} split, {p.trials} trial{'s' if p.trials > 1 else ''}",
            f"  resize {p.kernel}, {p.order}{'' if p.resize_verified else ' (not verified)'}, "
            f"range [{p.low:g}, {p.high:g}], batch norm eps {p.batch_norm_eps:g}",
            f"  {p.detector}, {p.layer}, ddof {p.ddof}, {p.root}",
        ]
    return "\n".join(lines)
