"""Nesterov momentum of the steps that θ takes, one for each iteration, in addition to the optimizer's own momentum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class OuterMomentum:
    """Takes θ's step of an iteration with Nesterov momentum, as SNOO and DiLoCo take the steps of their inner loops.

    The optimizer would move θ by -g to U_θ(θ, γ_θ Σ_k Δθ_k). With momentum μ, v <- μ v + g and θ <- θ - (g + μ v). This is torch's
    form, with g as the gradient and a learning rate of 1. So with plain SGD as U_θ, at a constant learning rate, it is SGD with
    Nesterov momentum μ.

    Args:
        theta: the base weights.
        momentum: μ. With 0 the optimizer's step stays as it is, bit for bit.

    Attributes:
        velocity: v for each of ``theta``; empty before the first step, and with a momentum of 0.
    """

    def __init__(self, theta: Sequence[nn.Parameter], momentum: float) -> None:
        self.theta = list(theta)
        self.momentum = momentum
        self.velocity: list[Tensor] = []

    @contextmanager
    def step(self) -> Iterator[None]:
        """Gives momentum to the step that the optimizer makes in this block."""
        if self.momentum == 0:
            yield
            return
        theta = [parameter.detach() for parameter in self.theta]
        before = [value.clone() for value in theta]
        yield
        g = torch._foreach_sub(before, theta)
        if self.velocity:
            torch._foreach_mul_(self.velocity, self.momentum)
            torch._foreach_add_(self.velocity, g)
        else:
            self.velocity = [value.clone() for value in g]
        torch._foreach_add_(g, self.velocity, alpha=self.momentum)
        torch._foreach_copy_(theta, torch._foreach_sub(before, g))

    def load(self, velocity: Sequence[Tensor]) -> None:
        """Restores ``velocity``."""
        pairs = zip(velocity, self.theta, strict=True) if velocity and self.momentum > 0 else ()
        self.velocity = [value.to(parameter) for value, parameter in pairs]
