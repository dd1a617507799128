"""Stochastic weight averaging (Izmailov et al., 2018; Algorithm 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class SWA:
    """The mean of the weights that it was given, each of them counting the same.

    With late-phase weights these are θ and Φ, as ``LatePhase.weights()`` has them, so every member has an average of its own.
    Running statistics are not averaged: those of an averaged model are re-estimated (Appendix A).
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        """θ_SWA <- (t θ_SWA + θ) / (t + 1).

        Args:
            weights: name -> tensor, the same names and shapes each time.
        """
        if not self.count:
            self.mean = {name: value.clone() for name, value in weights.items()}
        else:
            torch._foreach_lerp_(list(self.mean.values()), [weights[name] for name in self.mean], 1 / (self.count + 1))
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state_dict: Mapping[str, Any], device: torch.device) -> None:
        def moved(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device)
            return {name: moved(entry) for name, entry in value.items()} if isinstance(value, dict) else value

        vars(self).update({name: moved(value) for name, value in state_dict.items()})
