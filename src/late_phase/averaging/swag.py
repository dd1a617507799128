"""SWA-Gaussian (Maddox et al., 2019)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from late_phase.averaging.swa import SWA


class SWAG(SWA):
    """A Gaussian over weights, from those that it was given: SWA's mean, and a covariance that is half diagonal, half low-rank.

    Covariance at scale 1: diag(σ²) + D Dᵀ / (n - 1), where σ² is the variance of each weight over all updates, and the n columns
    of D are the deviations of the last weights, ``rank`` of them at most, from the mean that there was at their time. All weights
    form one vector, so they share the low-rank part's random numbers.

    Args:
        rank: number of deviations that are kept; the paper's code has 20.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.squares: dict[str, Tensor] = {}
        self.deviations: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        column = self.count % self.rank
        super().update(weights)
        if self.count == 1:
            self.squares = {name: value.square() for name, value in weights.items()}
            self.deviations = {name: value.new_empty(0, *value.shape) for name, value in weights.items()}
        for name, value in weights.items():
            self.squares[name].lerp_(value.square(), 1 / self.count)
            deviation = value - self.mean[name]
            if self.count <= self.rank:
                self.deviations[name] = torch.cat((self.deviations[name], deviation[None]))
            else:
                self.deviations[name][column] = deviation

    @torch.no_grad()
    def sample(self, scale: float, generator: torch.Generator) -> dict[str, Tensor]:
        """Weights drawn from the Gaussian with its covariance times ``scale``; the paper's code has 0.5, which halves both parts.

        Raises:
            RuntimeError: there was no update.
        """
        if not self.count:
            raise RuntimeError("SWAG has no weights to sample from: call update() before sample().")
        n = min(self.count, self.rank)
        z = torch.randn(n, generator=generator, device=generator.device)
        sample = {}
        for name, mean in self.mean.items():
            noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(mean)
            # The difference of two rounded numbers: not below 0.
            diagonal = (self.squares[name] - mean.square()).clamp(min=0).sqrt() * noise
            low_rank = torch.tensordot(z.to(mean), self.deviations[name], dims=1) / max(n - 1, 1) ** 0.5
            sample[name] = mean + scale**0.5 * (diagonal + low_rank)
        return sample
