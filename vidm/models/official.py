"""The official VIDM motion network, bit-compatible: its state dict loads, and gives what it gave.

It is the motion network with the switches of `official_facts`: the residual encoder sees n; SpyNet is fed [-1, 1]
images without rescaling; six output channels (learned range: three for eps, three for the variance).

    x_t, t, n, x_first, x_prev: (B,3,H,W), (B,), (B,), (B,3,H,W), (B,3,H,W) -> (B,6,H,W)
    t 0-based in 0..999, n in 0..video_timesteps-1

A checkpoint does not say for how many frames it was trained, nor its image size: the caller does, and the converted
file keeps both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from vidm import __version__
from vidm.config import Diffusion, Motion, Network
from vidm.errors import InputError
from vidm.models import trained
from vidm.models.motion import MotionNetwork
from vidm.weights import read_torch

LAZY = re.compile(r"(^|\.)(new_)?coords$")  # buffers that the official code makes at the first batch
RES = {
    "in_layers.0": "norm_in",
    "in_layers.2": "conv_in",
    "emb_layers.linear_0": "norm.first",
    "emb_layers.linear_1.0": "norm.second",
    "emb_layers.linear_1.2": "norm.third",
    "emb_layers.out_norm": "norm.norm",
    "emb_layers.out_rest.1": "conv_out",
    "skip_connection": "skip",
}
ATTENTION = {"norm": "norm", "qkv": "qkv", "proj_out": "proj"}
BUFFERS = {"spynet.mean", "spynet.std"}
EXPERIMENT = "official"  # that of a converted file, by its notes


def official_facts(network: Network, out_channels: int = 6, steps: int = 1000) -> Motion:
    """The switches that make a motion network the official one. Training them, too, is the official loss."""
    return Motion(
        network=network,
        diffusion=Diffusion(
            steps=steps,
            loss="mse",
            variance="learned-range" if out_channels == 6 else "fixed-small",
            weighting="p2",
        ),
        residual="features-n",
        spynet="none",
        spynet_range="signed",
    )


def load_official_motion(
    state_dict: Mapping[str, Any] | str | Path,
    video_timesteps: int,
    image_size: int = 128,
    model_channels: int = 128,
    out_channels: int = 6,
    num_res_blocks: int = 2,
    attention_resolutions: Sequence[int] = (16,),
    channel_mult: Sequence[int] = (1, 1, 2, 2, 4, 4),
    num_head_channels: int = 64,
    diffusion_timesteps: int = 1000,
    ema: bool = True,
    **_,
) -> MotionNetwork:
    """The official network with its weights, in eval mode.

    `state_dict`: the weights; or a checkpoint (a `.pth.tar` file or what is in it) with `ema_state_dict` and
    `state_dict`, of which `ema` says which. Size keywords are the official ones, with the official defaults; others
    are ignored. `attention_resolutions` are *downsampling factors* there. The lazily made coordinate buffers are
    dropped by name.
    Raises InputError where anything else is missing or left over, has another shape, or the file can't be read safely.
    """
    content = read_torch(Path(state_dict)) if isinstance(state_dict, str | Path) else state_dict
    weights, _ = _weights(content, ema)
    if out_channels not in (3, 6):
        raise InputError(f"official weights: out_channels = {out_channels}; 3, or 6 with a learned variance")
    try:
        facts = Network(
            channels=model_channels,
            multipliers=tuple(channel_mult),
            blocks=num_res_blocks,
            attention=tuple(image_size // factor for factor in attention_resolutions),
            head_channels=num_head_channels,
        )
    except ValidationError as error:
        raise InputError(f"official weights: {error.errors()[0]['msg']}; check the size keywords") from None
    network = MotionNetwork(official_facts(facts, out_channels, diffusion_timesteps), image_size, video_timesteps)
    names = _names(network)
    missing, extra = sorted(set(names) - set(weights)), sorted(set(weights) - set(names) - BUFFERS)
    if missing or extra:
        example = (missing or extra)[0]
        raise InputError(
            f"official weights: {len(missing)} keys missing, {len(extra)} left over (for example '{example}'); "
            "check the size keywords"
        )
    ours, state = network.state_dict(), {}
    for key, name in names.items():
        value = weights[key]
        if value.ndim == 3:  # the official attention has 1-D convolutions
            value = value.unsqueeze(-1)
        if value.shape != ours[name].shape:
            raise InputError(
                f"official weights: '{key}' has shape {tuple(value.shape)}, expected {tuple(ours[name].shape)}; "
                "check the size keywords"
            )
        state[name] = value.float()
    network.load_state_dict(state, strict=True)
    return network.eval()


def sizes_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Size keywords of `load_official_motion` that a state dict shows: all but image size, heads, frames and steps.

    Attention is given as downsampling factors. Raises InputError where this is no official network.
    """
    try:
        outputs = 1 + max(int(key.split(".")[2]) for key in weights if key.startswith("unet.output_blocks."))
        # The last block of a level ends with the residual block that doubles the size.
        ups = {
            int(found[1])
            for key in weights
            if (found := re.fullmatch(r"unet\.output_blocks\.(\d+)\.[12]\.in_layers\.0\.weight", key))
        }
        blocks = min(ups) if ups else outputs - 1
        levels = outputs // (blocks + 1)
        first = weights["unet.input_blocks.0.0.weight"].shape[0]
        # Input blocks: the first convolution, then in each level its blocks and, but for the last, one that halves.
        starts = [1 + level * (blocks + 1) for level in range(levels)]
        widths = [weights[f"unet.input_blocks.{i}.0.in_layers.2.weight"].shape[0] for i in starts]
        channels = math.gcd(first, *widths)
        attention = [2**k for k, i in enumerate(starts) if f"unet.input_blocks.{i}.1.qkv.weight" in weights]
        return {
            "model_channels": channels,
            "channel_mult": tuple(width // channels for width in widths),
            "num_res_blocks": blocks,
            "attention_resolutions": tuple(attention),
            "out_channels": weights["unet.out.2.weight"].shape[0],
        }
    except (KeyError, ValueError, IndexError):
        raise InputError("no official VIDM motion network: keys like 'unet.output_blocks.0.0...' are missing") from None


def import_official(source: Path, out: Path, frames: int, size: int, head_channels: int, ema: bool) -> str:
    """Convert an official checkpoint into a motion network file of ours; return what is to be said about it.

    `frames` is the time grid that it was trained with, `size` its image size in pixels: they travel in the file.
    Raises InputError.
    """
    content = read_torch(source)  # names the file itself
    try:
        weights, kind = _weights(content, ema)
        sizes = sizes_of(weights)
        network = load_official_motion(weights, frames, image_size=size, num_head_channels=head_channels, **sizes)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    notes = {
        "part": "motion",
        "experiment": EXPERIMENT,
        "facts": network.facts.model_dump(mode="json"),
        "size": size,
        "frames": frames,
        "classes": {},
        "step": None,
        "ema": kind == "ema_state_dict",
        "source": source.name,
        "source_sha256": trained.file_sha256(source),
        "vidm": __version__,
        "torch": torch.__version__,
    }
    trained.save(network, out, notes)
    count = sum(p.numel() for p in network.parameters()) / 1e6
    return (
        f"{out}: official motion network, {count:.2f} M parameters ({kind or 'a plain state dict'})\n"
        f"  built for {frames} frames of {size} pixels, as --frames and --size say: the checkpoint does not"
    )


def _weights(content: Any, ema: bool) -> tuple[dict[str, Tensor], str]:
    """(state dict without coordinate buffers and DDP's prefix, the key it stood under in a checkpoint or "")."""
    if not isinstance(content, Mapping):
        raise InputError("official weights: a mapping of names to tensors is needed")
    keys = [key for key in ("ema_state_dict", "state_dict") if isinstance(content.get(key), Mapping)]
    kind = next((key for key in (keys if ema else reversed(keys))), "")
    content = content[kind] if kind else content
    odd = next((key for key, value in content.items() if not isinstance(value, Tensor)), None)
    if odd is not None:
        raise InputError(f"official weights: '{odd}' is no tensor; give a state dict, or a checkpoint with state_dict")
    named = {key.removeprefix("module."): value for key, value in content.items()}
    return {key: value for key, value in named.items() if not LAZY.search(key)}, kind


def _names(network: MotionNetwork) -> dict[str, str]:
    """Official key -> our key, for every parameter."""
    prefixes: dict[str, str] = {}

    def stage(official: str, ours: str, attends: bool) -> int:
        """Map one stage; return how many modules of the official block it took."""
        head, index = official.rsplit(".", 1)
        prefixes.update({f"{official}.{a}": f"{ours}.block.{b}" for a, b in RES.items()})
        if attends:
            prefixes.update({f"{head}.{int(index) + 1}.{a}": f"{ours}.attention.{b}" for a, b in ATTENTION.items()})
        return 2 if attends else 1

    for official, ours, half in (
        ("encoder", "residual", network.residual),
        ("unet", "unet.encoder", network.unet.encoder),
    ):
        prefixes[f"{official}.input_blocks.0.0"] = f"{ours}.conv"
        for i, s in enumerate(half.stages):
            stage(f"{official}.input_blocks.{i + 1}.0", f"{ours}.stages.{i}", s.attention is not None)
    stage("unet.middle_block.0", "unet.middle.0", True)
    stage("unet.middle_block.2", "unet.middle.1", False)
    block, taken = -1, 0
    for j, s in enumerate(network.unet.decoder):
        if s.block.resample == "up":  # the last module of the official block before it
            stage(f"unet.output_blocks.{block}.{taken}", f"unet.decoder.{j}", False)
        else:
            block += 1
            taken = stage(f"unet.output_blocks.{block}.0", f"unet.decoder.{j}", s.attention is not None)
    prefixes["unet.out.0"], prefixes["unet.out.2"] = "unet.norm_out", "unet.conv_out"
    for level, module in enumerate(network.spynet.levels):
        for i in range(len(module.convs)):
            prefixes[f"spynet.basic_module.{level}.basic_module.{i}.conv"] = f"spynet.levels.{level}.convs.{i}"
    ours = network.state_dict()
    return {
        f"{official}.{kind}": f"{name}.{kind}"
        for official, name in prefixes.items()
        for kind in ("weight", "bias")
        if f"{name}.{kind}" in ours
    }
