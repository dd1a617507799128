"""ShakeDrop (Yamada et al., 2018): a residual branch that is now and then scaled at random, differently in the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ShakeDrop(nn.Module):
    """Branch ``[examples, ...]`` -> the branch times b + α - b α, its gradient times b + β - b β; in eval mode, times E[b] = p.

    b ~ Bernoulli(p) is one number per call, α ~ U[-1, 1] and β ~ U[0, 1] are one per example: with b = 1 the branch stays as it is.
    They are drawn from the global generator of the branch's device.

    Args:
        survival: p.
    """

    def __init__(self, survival: float) -> None:
        super().__init__()
        self.survival = survival

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training:
            return self.survival * branch
        survives = torch.rand((), device=branch.device) < self.survival
        uniform = torch.rand(2, len(branch), *[1] * (branch.dim() - 1), device=branch.device)
        # As b is 0 or 1, b + α - b α is a choice: of α or of exactly 1.
        forward = torch.where(survives, 1, 2 * uniform[0] - 1)
        backward = torch.where(survives, 1, uniform[1])
        detached = (forward - backward).to(branch.dtype) * branch.detach()
        return torch.addcmul(detached, backward.to(branch.dtype), branch)

    def extra_repr(self) -> str:
        return f"survival={self.survival:g}"
