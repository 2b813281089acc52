"""The motion generator: rho_phi(x(n)_t, z, t, n) with the residual of frame 0, Eqs. 5-9.

symbol   meaning                                                            shape
x_t      noisy frame n                                                      (B, 3, S, S)
x_first  clean frame 0, [-1, 1]                                             (B, 3, S, S)
x_prev   clean frame n-1, [-1, 1]                                           (B, 3, S, S)
t        diffusion step, 0..steps-1                                         (B,) or (1,)
n        frame, 1..frames-1                                                 (B,) or (1,)
z        motion code v(x_first, x_prev): SpyNet's flow in pixels, Eq. 8     (B, 2, S, S)
r        features of x_first from the residual encoder, one per input block

z is concatenated to x_t; by a switch beyond the paper (`previous`) x_prev itself too. r is added at each input block
(see unet.py). The residual encoder sees t but not n (n = 0 in its PosGN), so that r can be kept over all frames of a
video; z changes once a frame.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidm.config import Motion
from vidm.models.content import TimeEmbedding
from vidm.models.posgn import AdaGN, PosGN
from vidm.models.spynet import SpyNet
from vidm.models.unet import Encoder, UNet


class MotionNetwork(nn.Module):
    """What the network predicts of noisy frame n: (x_t, t, n, x_first, x_prev) -> (B, 3, S, S)."""

    def __init__(self, facts: Motion, size: int, frames: int) -> None:
        super().__init__()
        network, steps = facts.network, facts.diffusion.steps
        self.frames = frames

        def norm(width: int) -> nn.Module:
            if facts.posgn:
                return PosGN(width, network.groups, steps, frames)
            return AdaGN(width, network.groups, 4 * network.channels)

        self.time = None if facts.posgn else TimeEmbedding(network.channels)
        self.spynet = SpyNet() if facts.implicit else None
        self.residual = Encoder(network, 3, size, norm) if facts.residual == "features" else None
        self.previous = facts.previous
        self.unet = UNet(network, 3 + 2 * facts.implicit + 3 * facts.previous, 3, size, norm)

    def condition(self, t: Tensor, n: Tensor):
        """What the norms take: (t, n) for PosGN, an embedding of t for AdaGN."""
        return (t, n) if self.time is None else self.time(t)

    def motion_code(self, x_first: Tensor, x_prev: Tensor) -> Tensor | None:
        """z (B, 2, S, S), Eq. 8, and behind it x_prev where the model sees it; None where it has neither."""
        z = [] if self.spynet is None else [self.spynet((x_first + 1) / 2, (x_prev + 1) / 2)]
        z += [x_prev] if self.previous else []
        return torch.cat(z, dim=1) if z else None

    def first_features(self, x_first: Tensor, t: Tensor) -> list[Tensor] | None:
        """r of every input block; a function of (x_first, t) alone. None where the model has none."""
        if self.residual is None:
            return None
        return self.residual(x_first, self.condition(t, torch.zeros_like(t)))

    def predict(self, x_t: Tensor, t: Tensor, n: Tensor, z: Tensor | None, r: list[Tensor] | None) -> Tensor:
        """The network with its conditions given: the inner loop of sampling."""
        x = x_t if z is None else torch.cat([x_t, z.to(x_t.dtype)], dim=1)
        return self.unet(x, self.condition(t, n), r)

    def forward(self, x_t: Tensor, t: Tensor, n: Tensor, x_first: Tensor, x_prev: Tensor) -> Tensor:
        return self.predict(x_t, t, n, self.motion_code(x_first, x_prev), self.first_features(x_first, t))
