"""The motion generator: rho_phi(x(n)_t, z, t, n) with the residual of frame 0, Eqs. 5-9.

symbol   meaning                                                            shape
x_t      noisy frame n                                                      (B, 3, S, S)
x_first  clean frame 0, [-1, 1]                                             (B, 3, S, S)
x_prev   clean frame n-1, [-1, 1]                                           (B, 3, S, S)
t        diffusion step, 0..steps-1                                         (B,) or (1,)
n        frame, 1..frames-1                                                 (B,) or (1,)
label    class, 0..classes-1; None without any                              (B,) or (1,)
z        motion code v(x_first, x_prev): SpyNet's flow in pixels, Eq. 8     (B, 2, S, S)
r        the residual of x_first; what it is and where it enters:

residual    r                                              enters                          r is a function of
features    features of a down half, one per input block   r + 0.2 h at each (unet.py)     x_first, t
features-n  the same, as in the official code              the same                        x_first, t, n
output      a second U-Net's output, Algorithms 1 and 2    rho + r                         x_first
none        -                                              -                               -

z is concatenated to x_t; by a switch beyond the paper (`previous`) x_prev itself too. Where the residual network does
not see t or n, it has PosGN all the same, and 0 in their place. What r is a function of says how long it can be kept
in sampling; z changes once a frame.

What is diffused is d, with x(n) = base + scale_n d. The paper says that "rho is actually learning to synthesize the
residual"; beyond it, `target` takes that to the pixels, so that what frame n shares with frame n-1 passes by itself:

target              base                                               scale_n
frame               0                                                  1
difference          x_prev                                             standard deviation of d scale_n in the training
warped-difference   x_prev(p + v(x_prev, x_back)(p) / gap), bicubic    clips, over pixels, of each n

x_back is frame n-1-gap, gap = min(velocity_frames, n-1), so that v / gap is how far the picture has moved a frame, back
in time. At n = 1 there is no motion yet and base is x_prev. Where x_prev itself would be concatenated, base stands.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vidm.config import Motion
from vidm.models.adagn import AdaGN, Embedding, require_label
from vidm.models.posgn import PosGN, Tables, Where
from vidm.models.spynet import SpyNet, warp
from vidm.models.unet import Encoder, UNet

Residual = list[Tensor] | Tensor | None
SEES = {"features": {"t"}, "features-n": {"t", "n"}, "output": set(), "none": set()}


class Conditions(NamedTuple):
    """What all denoising steps of one frame share.

    code: channels beside x_t, (B, k, S, S). base (B, 3, S, S) and scale (B or 1, 1, 1, 1): x(n) = base + scale d; None
    of whole frames.
    """

    code: Tensor | None
    base: Tensor | None = None
    scale: Tensor | None = None

    def diffused(self, x_n: Tensor) -> Tensor:
        """d of frame n (B, 3, S, S)."""
        return x_n if self.base is None else (x_n - self.base) / self.scale

    def frame(self, d: Tensor) -> Tensor:
        """Frame n (B, 3, S, S) in [-1, 1] of d."""
        return (d if self.base is None else self.base + self.scale * d).clamp(-1, 1)


class MotionNetwork(nn.Module):
    """What the network predicts of noisy d: (x_t, t, n, x_first, x_prev) -> (B, 3, S, S).

    Six channels with a learned variance. `size`: side of the frame that attention is placed for, pixels; `frames`: the
    time grid; `classes`: 0 for none.
    """

    def __init__(self, facts: Motion, size: int, frames: int, classes: int = 0) -> None:
        super().__init__()
        network, steps, out = facts.network, facts.diffusion.steps, facts.diffusion.channels
        self.facts, self.size, self.frames, self.classes = facts, size, frames, classes

        def norm(width: int) -> nn.Module:
            if facts.posgn:
                return PosGN(width, network.groups, steps, frames, classes)
            return AdaGN(width, network.groups, 4 * network.channels)

        self.embedding = None if facts.posgn else Embedding(network.channels, classes)
        ranged = (-1, 1) if facts.spynet_range == "signed" else (0, 1)
        self.spynet = SpyNet(ranged, facts.spynet_levels) if facts.sees_flow else None
        if self.spynet is not None and not facts.spynet_finetuned:
            self.spynet.requires_grad_(False)
        self.residual_sees = SEES[facts.residual]
        if facts.residual == "none":
            self.residual = None
        elif facts.residual == "output":
            self.residual = UNet(network, 3, out, size, norm)
        else:
            self.residual = Encoder(network, 3, size, norm)
        seen = 2 * facts.implicit + 3 * facts.previous + facts.conditioning_level
        self.unet = UNet(network, 3 + seen, out, size, norm)
        # Of frames 0..frames-1, that of frame 0 unused; `measure_scale` sets it.
        if facts.target != "frame":
            self.register_buffer("scale", torch.ones(frames))

    def condition(self, t: Tensor, n: Tensor, label: Tensor | None, tables: Tables | None = None) -> Where | Tensor:
        """What the norms take: Where for PosGN, an embedding of t and label for AdaGN."""
        require_label(self.classes, label)
        return Where(t, n, label, tables) if self.embedding is None else self.embedding(t, label)

    @property
    def back(self) -> int:
        """How many frames before x(n-1) the conditions look at, at most."""
        return self.facts.velocity_frames if self.facts.target == "warped-difference" else 0

    def flow(self, reference: Tensor, supporting: Tensor) -> Tensor:
        """v(reference, supporting) of images in [-1, 1]: (B, 2, S, S), pixels."""
        signed = self.facts.spynet_range == "signed"
        pair = (reference, supporting) if signed else ((reference + 1) / 2, (supporting + 1) / 2)
        return self.spynet(*pair)

    def base(self, x_prev: Tensor, x_back: Tensor | None = None, gap: Tensor | None = None) -> Tensor | None:
        """What d is added to, (B, 3, S, S); None of whole frames. gap: (B,) or (1,); where it is 0, x_prev stays.

        Bicubic: a bilinear step of half a pixel blurs, and the next frame is made of the blurred one. Where the
        picture comes in from outside, its border is repeated.
        """
        if self.facts.target != "warped-difference":
            return x_prev if self.facts.target == "difference" else None
        gap = gap.to(x_prev.dtype).view(-1, 1, 1, 1)
        velocity = self.flow(x_prev, x_back).to(x_prev.dtype) / gap.clamp(min=1)
        return torch.where(gap > 0, warp(x_prev, velocity, "bicubic"), x_prev)

    def conditions(
        self,
        x_first: Tensor,
        x_prev: Tensor,
        n: Tensor,
        x_back: Tensor | None = None,
        gap: Tensor | None = None,
        level: Tensor | None = None,
    ) -> Conditions:
        """All that frame n's denoising steps share.

        x_back and gap (B,) or (1,): frame n-1-gap, needed where `back` is not 0. level (B,) or (1,): of the noise on
        x_prev, where the network sees it; left out: 0.
        """
        facts, base = self.facts, self.base(x_prev, x_back, gap)
        code = [self.flow(x_first, x_prev)] if facts.implicit else []
        if facts.previous:
            code.append(x_prev if base is None else base)
        if facts.conditioning_level:
            level = x_prev.new_zeros(1) if level is None else level.to(x_prev.dtype)
            code.append(level.view(-1, 1, 1, 1).expand(len(x_prev), 1, *x_prev.shape[-2:]))
        scale = None if base is None else self._scale_at(n)
        return Conditions(torch.cat(code, dim=1) if code else None, base, scale)

    def _scale_at(self, n: Tensor) -> Tensor:
        """scale_n (B or 1, 1, 1, 1), between frames by a line."""
        below = n.floor().long() if n.is_floating_point() else n
        rest = (n - below).to(self.scale.dtype)
        above = (below + 1).clamp(max=self.frames - 1)
        return torch.lerp(self.scale[below], self.scale[above], rest).view(-1, 1, 1, 1)

    @torch.no_grad()
    def measure_scale(self, clips: Tensor) -> None:
        """Set scale_n by the windows (V, frames, 3, S, S) in [-1, 1] of training clips.

        Raises ValueError where some frame differs from its base nowhere: nothing is to be learned of it.
        """
        for n in range(1, self.frames):
            gap = min(self.back, n - 1)
            gaps, total = torch.tensor([gap], device=clips.device), 0.0
            for v in clips.split(16):
                total += (v[:, n] - self.base(v[:, n - 1], v[:, n - 1 - gap], gaps)).square().mean() * len(v)
            self.scale[n] = (total / len(clips)).sqrt()
        if not bool((self.scale[1:] > 0).all()):
            raise ValueError("the clips stand still")

    def residual_of(
        self, x_first: Tensor, t: Tensor, n: Tensor, label: Tensor | None = None, tables: Tables | None = None
    ) -> Residual:
        """r, a function of x_first, the label, and of t and n as far as `residual_sees` names them."""
        if self.residual is None:
            return None
        t = t if "t" in self.residual_sees else torch.zeros_like(t)
        n = n if "n" in self.residual_sees else torch.zeros_like(t)
        return self.residual(x_first, self.condition(t, n, label, tables))

    def predict(
        self,
        x_t: Tensor,
        t: Tensor,
        n: Tensor,
        z: Tensor | None,
        r: Residual,
        label: Tensor | None = None,
        tables: Tables | None = None,
    ) -> Tensor:
        """The network with its conditions given: the inner loop of sampling. `tables`: of this t and n, (1,) each."""
        x = x_t if z is None else torch.cat([x_t, z.to(x_t.dtype)], dim=1)
        where = self.condition(t, n, label, tables)
        if isinstance(r, Tensor):
            return self.unet(x, where) + r
        return self.unet(x, where, r)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        n: Tensor,
        x_first: Tensor,
        x_prev: Tensor,
        label: Tensor | None = None,
        code: Tensor | None = None,
    ) -> Tensor:
        """code: that of `conditions`, where it is known already; else it is that of x_prev alone (gap 0)."""
        if code is None:
            code = self.conditions(x_first, x_prev, n, x_prev, torch.zeros_like(n)).code
        return self.predict(x_t, t, n, code, self.residual_of(x_first, t, n, label), label)
