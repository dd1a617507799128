"""LoRA factors as late-phase weights (Hu et al., 2021): low-rank matrices that are added to a plain model's weight matrices."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from late_phase.layers.matrices import find_matrices
from late_phase.selection import Selection, by_type


class LoRA(nn.Module):
    """Computes W = θ + (alpha / rank) B A, for θ ``[out, in]``, B ``[out, rank]`` and A ``[rank, in]`` (Hu et al., 2021, Eq. 3).

    B starts with zeros, so W starts as θ. A starts uniformly in ±1/√in, like the weight of ``nn.Linear``.

    Args:
        weight: θ, which gives shape, data type and device.
        generator: source of A, on any device; the global CPU generator by default.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float, generator: torch.Generator | None = None) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        uniform = torch.rand(rank, inputs, generator=generator, device=generator.device if generator else "cpu")
        self.A = nn.Parameter(((2 * uniform - 1) / math.sqrt(inputs)).to(weight))
        self.B = nn.Parameter(weight.new_zeros(outputs, rank))
        self.scale = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        return torch.addmm(weight, self.B, self.A, alpha=self.scale)


def parametrize_lora(
    model: nn.Module, rank: int, alpha: float, generator: torch.Generator | None = None, matrices: str = "*"
) -> None:
    """Adds LoRA factors to the weights of a plain model's linear layers, in place.

    The model's outputs stay the same. :func:`late_phase.layers.fold.fold` adds the products to the weights, and turns the model
    back into a plain one. Build the optimizer after this.

    Args:
        rank: rank of the products.
        alpha: the products are multiplied by ``alpha / rank``.
        generator: source of A, on any device; the global CPU generator by default.
        matrices: only weights whose names match this pattern; ``*`` and ``?`` work as in a shell.

    Raises:
        ValueError: no weight matches, layers share a weight, a weight has no such rank, or the model has LoRA factors already.
    """
    if any(isinstance(module, LoRA) for module in model.modules()):
        raise ValueError(f"{type(model).__name__} has LoRA factors already: call parametrize_lora() once.")
    weights = find_matrices(model, _weights, "linear", "LoRA factors", matrices)
    most = min(min(getattr(layer, name).shape) for layer, name in weights)
    if not 1 <= rank <= most:
        raise ValueError(f"rank={rank} is out of range for these weights: choose from 1 to {most}.")
    for layer, name in weights:
        register_parametrization(layer, name, LoRA(getattr(layer, name), rank, alpha, generator))


def lora() -> Selection:
    """Selects A and B of all LoRA factors."""
    (rule,) = by_type(LoRA).rules
    return Selection(rule._replace(spelling="lora()"))


def _weights(layer: nn.Module) -> Iterator[str]:
    if isinstance(layer, nn.Linear):
        yield "weight"
