"""Group normalisation as a GPU should have it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from vidm.machine import full_precision


class GroupNorm(nn.GroupNorm):
    """(B, C, H, W) -> the same, in its dtype; moments are in fp32 inside.

    A GPU's autocast has group_norm in fp32, and all that follows it up to the next convolution: twice the memory and
    twice the traffic. Its kernel wants weights of the dtype of x. A CPU's autocast leaves the norm alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":
            return super().forward(x)
        with full_precision(x.device):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
