"""Stochastic weight averaging (Izmailov et al., 2018; Algorithm 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from late_phase.config.choices import register
from late_phase.methods.averaging import AverageConfig, AverageMethod, MovingAverage
from late_phase.methods.interface import Trained

if TYPE_CHECKING:
    from torch import Tensor


class SWA(MovingAverage):
    """The equally weighted mean of all weights that it was given: θ_SWA <- (t θ_SWA + θ) / (t + 1)."""

    def move(self, mean: list[Tensor], weights: list[Tensor]) -> None:
        import torch

        torch._foreach_lerp_(mean, weights, 1 / (self.count + 1))


class SWAMethod(AverageMethod):
    """SWA. Its predictors use weights averaged over epochs: ``swa`` is the single model, ``swa_ensemble`` the members."""

    name: ClassVar[str | None] = "swa"

    def empty(self) -> SWA:
        return SWA()

    def after_epoch(self, trained: Trained, epoch: int) -> None:
        self.update(trained, epoch)


register("averaging", "swa", AverageConfig, SWAMethod)
