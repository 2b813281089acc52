"""The official VIDM motion network, bit-compatible: its state dict loads, and gives what it gave.

Differences from `paper` mode: the residual encoder sees n; SpyNet is fed [-1, 1] images without rescaling; six output
channels (learned range: three for eps, three for the variance).

    x_t, t, n, x_first, x_prev: (B,3,H,W), (B,), (B,), (B,3,H,W), (B,3,H,W) -> (B,6,H,W)
    t 0-based in 0..999, n in 0..video_timesteps-1
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vidm.config import Network
from vidm.errors import InputError
from vidm.models.posgn import PosGN
from vidm.models.spynet import SpyNet
from vidm.models.unet import Encoder, UNet

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


class OfficialMotion(nn.Module):
    """`facts.attention` are feature sizes, as everywhere here; `load_official_motion` converts the official factors."""

    def __init__(self, facts: Network, size: int, out_channels: int, steps: int, frames: int) -> None:
        super().__init__()

        def norm(width: int) -> nn.Module:
            return PosGN(width, facts.groups, steps, frames)

        self.frames = frames
        self.spynet = SpyNet(input_range=(-1, 1))
        self.encoder = Encoder(facts, 3, size, norm)
        self.unet = UNet(facts, 5, out_channels, size, norm)

    def forward(self, x_t: Tensor, t: Tensor, n: Tensor, x_first: Tensor, x_prev: Tensor) -> Tensor:
        r = self.encoder(x_first, (t, n))
        z = self.spynet(x_first, x_prev)
        return self.unet(torch.cat([x_t, z.to(x_t.dtype)], dim=1), (t, n), r)


def load_official_motion(
    state_dict: Mapping[str, Tensor],
    video_timesteps: int,
    image_size: int = 128,
    model_channels: int = 128,
    out_channels: int = 6,
    num_res_blocks: int = 2,
    attention_resolutions: Sequence[int] = (16,),
    channel_mult: Sequence[int] = (1, 1, 2, 2, 4, 4),
    num_head_channels: int = 64,
    diffusion_timesteps: int = 1000,
    **_,
) -> OfficialMotion:
    """The official network with the weights of `state_dict`, in eval mode.

    Size keywords are the official ones, with the official defaults; others are ignored. `attention_resolutions` are
    *downsampling factors* there. The lazily made coordinate buffers are dropped by name.
    Raises InputError where anything else is missing or left over, or has another shape.
    """
    facts = Network(
        channels=model_channels,
        multipliers=tuple(channel_mult),
        blocks=num_res_blocks,
        attention=tuple(image_size // factor for factor in attention_resolutions),
        head_channels=num_head_channels,
    )
    network = OfficialMotion(facts, image_size, out_channels, diffusion_timesteps, video_timesteps)
    names = _names(network, facts)
    given = {key: value for key, value in state_dict.items() if not LAZY.search(key)}
    ours = network.state_dict()
    buffers = {"spynet.mean", "spynet.std"}
    missing, extra = sorted(set(names) - set(given)), sorted(set(given) - set(names) - buffers)
    if missing or extra:
        example = (missing or extra)[0]
        raise InputError(
            f"official weights: {len(missing)} keys missing, {len(extra)} left over (for example '{example}'); "
            "check the size keywords"
        )
    state = {}
    for key, name in names.items():
        value = given[key]
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


def _names(network: OfficialMotion, facts: Network) -> dict[str, str]:
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
        ("encoder", "encoder", network.encoder),
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
