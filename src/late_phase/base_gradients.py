"""Σ_k Δθ_k: the gradients of the base weights θ, summed over an iteration's inner steps (Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from late_phase.processes import Processes


class BaseGradients:
    """Collects the gradients of θ.

    Each inner step takes the gradients away from θ. The last one gives θ γ_θ times their sum as its gradient.

    Args:
        theta: the base weights.
        gamma_theta: γ_θ. With 0 the gradients are discarded and the optimizer leaves θ where it is.
    """

    def __init__(self, theta: Sequence[nn.Parameter], gamma_theta: float) -> None:
        self.theta = list(theta)
        self.gamma_theta = gamma_theta
        self.sums: list[Tensor | None] = [None] * len(self.theta)

    @property
    def released(self) -> bool:
        """Whether θ has a gradient to move along."""
        return any(parameter.grad is not None for parameter in self.theta)

    def accumulate(self, share: float = 1.0) -> None:
        """Computes Σ_k Δθ_k <- Σ_k Δθ_k + share Δθ_k and takes the gradients away from θ.

        Args:
            share: what part of the minibatch this process has.
        """
        sums, gradients = [], []
        for i, parameter in enumerate(self.theta):
            gradient, parameter.grad = parameter.grad, None
            if gradient is None or self.gamma_theta == 0:
                continue
            if self.sums[i] is None:
                # A copy, because the gradient's owner may reuse its memory, as DistributedDataParallel does.
                self.sums[i] = gradient.detach() * share
            else:
                sums.append(self.sums[i])
                gradients.append(gradient.detach())
        if sums:
            torch._foreach_add_(sums, gradients, alpha=share)

    def release(self, processes: Processes | None) -> None:
        """Sets the gradient of θ to γ_θ Σ_k Δθ_k and starts a new sum. The sum includes those of other processes."""
        if processes is not None and self.gamma_theta > 0:
            self.sums = processes.sums(self.sums, self.theta)
        if self.gamma_theta != 1 and (sums := [gradient for gradient in self.sums if gradient is not None]):
            torch._foreach_mul_(sums, self.gamma_theta)
        for parameter, gradient in zip(self.theta, self.sums, strict=True):
            parameter.grad = gradient
        self.sums = [None] * len(self.theta)

    def gather(self, processes: Processes) -> None:
        """Moves the sums of all processes to the first one."""
        sums = processes.sums(self.sums, self.theta)
        self.sums = sums if processes.rank == 0 else [None] * len(sums)

    def load(self, sums: Sequence[Tensor | None]) -> None:
        """Restores the ``sums`` of an unfinished iteration."""
        self.sums = [
            None if gradient is None else gradient.to(parameter) for gradient, parameter in zip(sums, self.theta, strict=True)
        ]
