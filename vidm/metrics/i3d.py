"""I3D on RGB (Carreira & Zisserman 2017), Kinetics-400: the detector that the Fréchet video distance is defined with.

The TF-hub module of Unterthiner et al. (2018), rebuilt for torch. What must agree with it, and is easy to lose:

- 'SAME' padding as TensorFlow does it: where the total is odd, the extra zero is on the right, bottom and end;
- batch norm with eps 1e-3 and no scale;
- the 400 logits before the softmax, averaged over what remains of time; not the 1024 pooled features.

Batch norm is not folded into the convolutions: to round every weight once more moves the published value of black
against white by 1.87e-6; as it is, it is 0.5e-6 away. Shapes: (B,3,T,H,W), T 9 or more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidm import weights
from vidm.errors import InputError
from vidm.machine import exact

CLASSES = 400
MIN_FRAMES = 9  # three halvings must leave the two that the average pool spans
EPS = 1e-3

# Channels in; of branch 0; of branch 1 reduced, out; of branch 2 reduced, out; of branch 3. None: max pool before.
_BLOCKS: Mapping[str, Sequence[int]] = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after, so that ceil(size / stride) remain: TensorFlow's 'SAME'."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class _Unit(nn.Conv3d):
    """Convolution, batch norm, ReLU: relu((conv(x) + bias) * scale + shift); pretrained, bias is 0 until `fold`."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int = 1) -> None:
        # At stride 1 'SAME' is symmetric; at stride 2 it depends on the size, see forward.
        super().__init__(inner, outer, kernel, stride, padding=0 if stride > 1 else kernel // 2)
        self.register_buffer("scale", torch.ones(1, outer, 1, 1, 1))
        self.register_buffer("shift", torch.zeros(1, outer, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            x = self._padded(x)
        if self.kernel_size[0] == 1:  # one matrix product; torch's own choice with one thread is slow and transposes
            x = F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)
        else:
            x = super().forward(x)
        if self.scale is not None:
            torch.addcmul(self.shift, x, self.scale, out=x)
        return x.relu_()

    def fold(self) -> None:
        """Scale and shift into weight and bias: one pass less, and a rounding of every weight more."""
        self.weight.data.mul_(self.scale.view(-1, 1, 1, 1, 1))
        self.bias.data.mul_(self.scale.flatten()).add_(self.shift.flatten())
        self.scale = self.shift = None

    def _padded(self, x: Tensor) -> Tensor:
        # One copy both pads and brings the input to the memory format of the weights.
        before = [_same(n, self.kernel_size[0], self.stride[0])[0] for n in x.shape[2:]]
        whole = [n + sum(_same(n, self.kernel_size[0], self.stride[0])) for n in x.shape[2:]]
        out = torch.empty(
            (*x.shape[:2], *whole), dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d
        ).zero_()
        t, h, w = (slice(b, b + n) for b, n in zip(before, x.shape[2:], strict=True))
        out[:, :, t, h, w] = x
        return out


def _pool(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Max pool over frames and pixels, padded as TensorFlow does: (B,C,T,H,W) -> (B,C,T',H',W').

    Inputs are 0 or more, so zeros and -inf pad alike. A total of 2 is symmetric; an odd total (1, after the end) is
    what ceil_mode adds. Pixels first, then frames, each in two dimensions: in three torch's pool is several times as
    slow, and a maximum is the same in any order.
    """
    t, h, w = (_same(n, k, s)[0] for n, k, s in zip(x.shape[2:], kernel, stride, strict=True))
    y = F.max_pool2d(x.transpose(1, 2).flatten(0, 1), kernel[1:], stride[1:], (h, w), ceil_mode=True)
    y = y.unflatten(0, (len(x), -1)).transpose(1, 2)
    if kernel[0] > 1:
        size = y.shape[3:]
        y = F.max_pool2d(y.flatten(3), (kernel[0], 1), (stride[0], 1), (t, 0), ceil_mode=True).unflatten(3, size)
    return y


class _Mixed(nn.Module):
    """An inception block: four branches side by side, concatenated."""

    def __init__(self, inner: int, b0: int, r1: int, b1: int, r2: int, b2: int, b3: int) -> None:
        super().__init__()
        self.Branch_0 = nn.ModuleDict({"Conv3d_0a_1x1": _Unit(inner, b0, 1)})
        self.Branch_1 = nn.ModuleDict({"Conv3d_0a_1x1": _Unit(inner, r1, 1), "Conv3d_0b_3x3": _Unit(r1, b1, 3)})
        self.Branch_2 = nn.ModuleDict({"Conv3d_0a_1x1": _Unit(inner, r2, 1), "Conv3d_0b_3x3": _Unit(r2, b2, 3)})
        self.Branch_3 = nn.ModuleDict({"Conv3d_0b_1x1": _Unit(inner, b3, 1)})

    def forward(self, x: Tensor) -> Tensor:
        out = []
        for branch in (self.Branch_0, self.Branch_1, self.Branch_2, self.Branch_3):
            y = _pool(x, (3, 3, 3), (1, 1, 1)) if branch is self.Branch_3 else x
            for unit in branch.values():
                y = unit(y)
            out.append(y)
        return torch.cat(out, 1)


class I3D(nn.Module):
    """(B,3,T,224,224) in [-1,1], T >= 9 -> logits (B,400), float32. Raises InputError on another shape.

    `sha256` is that of the weights' file; `eps` is batch norm's. `precision` "bf16" after `.fast()`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sha256, self.eps, self.precision = "", EPS, "fp32"
        self.Conv3d_1a_7x7 = _Unit(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = _Unit(64, 64, 1)
        self.Conv3d_2c_3x3 = _Unit(64, 192, 3)
        for name, channels in _BLOCKS.items():
            self.add_module(f"Mixed_{name}", _Mixed(*channels))
        self.Logits = nn.ModuleDict({"Conv3d_0c_1x1": nn.Conv3d(1024, CLASSES, 1)})

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 5 or x.shape[1] != 3 or x.shape[2] < MIN_FRAMES or x.shape[3:] != (224, 224):
            raise InputError(f"I3D: clips must be (B,3,T,224,224) with T of {MIN_FRAMES} or more, not {tuple(x.shape)}")
        with exact(x.device):
            return self._logits(x.to(self.Conv3d_1a_7x7.weight.dtype))

    def fast(self) -> I3D:
        """This network in bf16, but for its last layer: several times as fast, logits 1 to 2 % off."""
        for module in self.modules():
            if isinstance(module, _Unit):
                module.fold()
        self.bfloat16()
        self.Logits.float()
        self.precision = "bf16"
        return self

    def _logits(self, x: Tensor) -> Tensor:
        x = _pool(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = _pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        for name in _BLOCKS:
            if name == "4b":
                x = _pool(x, (3, 3, 3), (2, 2, 2))
            if name == "5b":
                x = _pool(x, (2, 2, 2), (2, 2, 2))
            x = self.get_submodule(f"Mixed_{name}")(x)
        x = F.avg_pool3d(x.float(), (2, 7, 7), 1)  # (B,1024,T'-1,1,1)
        return self.Logits["Conv3d_0c_1x1"](x).mean((2, 3, 4))


def load_i3d(path: str | Path | None = None, device: str | torch.device = "cpu", *, eps: float = EPS) -> I3D:
    """The network with its pretrained weights, in eval mode, without gradients.

    `path`: the file of `vidm weights fetch i3d`; without one it is fetched. `eps` is batch norm's: 1e-3 as
    published; some reimplementations have 1e-5. Raises InputError (no file, another file, no index).
    """
    tensors, note = weights.load("i3d", None if path is None else Path(path))
    model = I3D()
    state = {}
    for name, module in model.named_modules():
        if isinstance(module, _Unit):
            bias, mean, var = (tensors[f"{name}.norm.{part}"].double() for part in ("bias", "mean", "var"))
            scale = (var + eps).rsqrt()
            shift = bias - mean * scale
            state |= {f"{name}.weight": tensors[f"{name}.conv.weight"], f"{name}.bias": torch.zeros_like(module.bias)}
            state |= {f"{name}.{k}": v.float().view(1, -1, 1, 1, 1) for k, v in (("scale", scale), ("shift", shift))}
        elif isinstance(module, nn.Conv3d):
            state |= {f"{name}.{kind}": tensors[f"{name}.conv.{kind}"] for kind in ("weight", "bias")}
    model.load_state_dict(state)
    model.sha256, model.eps = note["sha256"], eps
    return model.to(device, memory_format=torch.channels_last_3d).eval().requires_grad_(False)
