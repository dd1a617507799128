"""ShakeDrop (Yamada et al., 2018): scales a residual branch at random, by different factors in the forward and backward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ShakeDrop(nn.Module):
    """Scales a branch ``[examples, ...]`` by b + α - b α, and its gradient by b + β - b β. In eval mode it scales by E[b] = p.

    b ~ Bernoulli(p) is one number per call. α ~ U[-1, 1] and β ~ U[0, 1] are one number per example. With b = 1 the branch stays as
    it is. All are drawn from the global generator of the branch's device.

    Args:
        survival: p, the probability that a branch stays as it is.
    """

    def __init__(self, survival: float) -> None:
        super().__init__()
        self.survival = survival

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training:
            return self.survival * branch
        survives = torch.rand((), device=branch.device) < self.survival
        uniform = torch.rand(2, len(branch), *[1] * (branch.dim() - 1), device=branch.device)
        # b is 0 or 1, so b + α - b α is either α or exactly 1.
        forward = torch.where(survives, 1, 2 * uniform[0] - 1)
        backward = torch.where(survives, 1, uniform[1])
        detached = (forward - backward).to(branch.dtype) * branch.detach()
        return torch.addcmul(detached, backward.to(branch.dtype), branch)

    def extra_repr(self) -> str:
        return f"survival={self.survival:g}"
