"""The content generator: eps_theta(x_t, c, t), Eqs. 3-4.

symbol  meaning                                                        shape
x_t     noisy frame                                                    (B, 3, S, S)
t       diffusion step, 0..steps-1                                     (B,) or (1,)
c       learnable constant, concatenated to x_t ("truncation trick")   (1, 3, S, S)
label   class, 0..classes-1; None without any                          (B,) or (1,)

c starts from N(0, 1), or from 0 by a switch: N(0, 1) is noise that a short training has to unlearn. Time and class
enter through AdaGN, as in Dhariwal & Nichol (2021).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidm.config import Content
from vidm.models.adagn import AdaGN, Embedding, require_label
from vidm.models.unet import UNet


class ContentNetwork(nn.Module):
    """What the network predicts of a noisy frame: (x_t, t) -> (B, 3, S, S); six channels with a learned variance.

    `size`: side of the square frame that c is made for, pixels. `classes`: 0 for none.
    """

    def __init__(self, facts: Content, size: int, classes: int = 0) -> None:
        super().__init__()
        channels, groups = facts.network.channels, facts.network.groups
        self.facts, self.size, self.classes = facts, size, classes
        self.embedding = Embedding(channels, classes)
        start = torch.randn if facts.constant_start == "normal" else torch.zeros
        self.constant = nn.Parameter(start(1, 3, size, size)) if facts.constant else None
        self.unet = UNet(
            facts.network,
            in_channels=6 if facts.constant else 3,
            out_channels=facts.diffusion.channels,
            size=size,
            norm=lambda width: AdaGN(width, groups, 4 * channels),
        )

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        require_label(self.classes, label)
        x = x_t
        if self.constant is not None:
            c = self.constant.to(x_t.dtype).expand(len(x_t), -1, -1, -1)
            x = torch.cat([x_t, c], dim=1)
        return self.unet(x, self.embedding(t, label))
