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
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidm.config import Motion
from vidm.models.adagn import AdaGN, Embedding, require_label
from vidm.models.posgn import PosGN, Tables, Where
from vidm.models.spynet import SpyNet
from vidm.models.unet import Encoder, UNet

Residual = list[Tensor] | Tensor | None
SEES = {"features": {"t"}, "features-n": {"t", "n"}, "output": set(), "none": set()}


class MotionNetwork(nn.Module):
    """What the network predicts of noisy frame n: (x_t, t, n, x_first, x_prev) -> (B, 3, S, S).

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
        self.spynet = SpyNet(ranged, facts.spynet_levels) if facts.implicit else None
        if self.spynet is not None and not facts.spynet_finetuned:
            self.spynet.requires_grad_(False)
        self.residual_sees = SEES[facts.residual]
        if facts.residual == "none":
            self.residual = None
        elif facts.residual == "output":
            self.residual = UNet(network, 3, out, size, norm)
        else:
            self.residual = Encoder(network, 3, size, norm)
        self.unet = UNet(network, 3 + 2 * facts.implicit + 3 * facts.previous, out, size, norm)

    def condition(self, t: Tensor, n: Tensor, label: Tensor | None, tables: Tables | None = None) -> Where | Tensor:
        """What the norms take: Where for PosGN, an embedding of t and label for AdaGN."""
        require_label(self.classes, label)
        return Where(t, n, label, tables) if self.embedding is None else self.embedding(t, label)

    def motion_code(self, x_first: Tensor, x_prev: Tensor) -> Tensor | None:
        """z (B, 2, S, S), Eq. 8, and behind it x_prev where the model sees it; None where it has neither."""
        z = []
        if self.spynet is not None:
            signed = self.facts.spynet_range == "signed"
            pair = (x_first, x_prev) if signed else ((x_first + 1) / 2, (x_prev + 1) / 2)
            z.append(self.spynet(*pair))
        if self.facts.previous:
            z.append(x_prev)
        return torch.cat(z, dim=1) if z else None

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
        self, x_t: Tensor, t: Tensor, n: Tensor, x_first: Tensor, x_prev: Tensor, label: Tensor | None = None
    ) -> Tensor:
        z, r = self.motion_code(x_first, x_prev), self.residual_of(x_first, t, n, label)
        return self.predict(x_t, t, n, z, r, label)
