"""Late-phase rank-1 matrix weights (Section 2.2), which multiply a plain model's weight matrices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import cached, is_parametrized, register_parametrization

from late_phase.layers.matrices import find_matrices
from late_phase.selection import Rule, Selection, by_type


class Rank1(nn.Module):
    """Computes W = (u vᵀ) ∘ θ, for θ ``[out, in, ...]``, u ``[out]`` and v ``[in]``.

    All positions of a convolution's kernel have the same factor.

    Args:
        weight: θ, which gives shape, data type and device.
        spread: u and v are drawn uniformly from 1 ± ``spread``.
        generator: source of u and v, on any device; the global CPU generator by default.
    """

    def __init__(self, weight: Tensor, spread: float = 0.0, generator: torch.Generator | None = None) -> None:
        super().__init__()

        def around_one(size: int) -> nn.Parameter:
            uniform = torch.rand(size, generator=generator, device=generator.device if generator else "cpu")
            return nn.Parameter((1 + spread * (2 * uniform - 1)).to(weight))

        self.u = around_one(weight.shape[0])
        self.v = around_one(weight.shape[1])

    def forward(self, weight: Tensor) -> Tensor:
        return rank1_product(weight, self.u, self.v)


def rank1_product(weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Returns u vᵀ ∘ weight, for u ``[out]``, v ``[in]`` and a weight ``[out, in, ...]``."""
    matrix = torch.outer(u, v)
    return matrix.reshape(matrix.shape + (1,) * (weight.dim() - 2)) * weight


def parametrize_rank1(model: nn.Module, spread: float = 0.0, generator: torch.Generator | None = None, matrices: str = "*") -> None:
    """Multiplies weights of a plain model by rank-1 matrices, in place.

    The weights are the ``weight`` of linear and convolutional layers, and the recurrent matrices ``weight_hh_l...`` of ``nn.LSTM``,
    ``nn.GRU`` and ``nn.RNN``. With ``spread=0`` the model's outputs stay the same. :func:`late_phase.layers.fold.fold` turns the
    model back into a plain one. Build the optimizer after this.

    Args:
        spread: u and v are drawn uniformly from 1 ± ``spread``. The paper uses 0.01.
        generator: source of u and v, on any device; the global CPU generator by default.
        matrices: only weights whose names match this pattern; ``*`` and ``?`` work as in a shell.

    Raises:
        ValueError: ``spread`` < 0, no weight matches, layers share a weight, or the model has rank-1 weights already.
    """
    if not 0 <= spread < float("inf"):
        raise ValueError(f"spread={spread} is not a spread around 1: choose a number of at least 0, such as 0.01.")
    if any(isinstance(module, Rank1) for module in model.modules()):
        raise ValueError(f"{type(model).__name__} has rank-1 weights already: call parametrize_rank1() once.")
    weights = find_matrices(model, _weights, "linear, convolutional or recurrent", "rank-1 weights", matrices)
    for layer, name in weights:
        register_parametrization(layer, name, Rank1(getattr(layer, name), spread, generator))
    for layer in {layer for layer, _ in weights if isinstance(layer, nn.RNNBase)}:
        _make_copyable(layer)
        _multiply_once(layer)


def rank1() -> Selection:
    """Selects u and v of all rank-1 matrices (Section 2.2, late-phase rank-1 matrix weights)."""
    (rule,) = by_type(Rank1).rules
    return Selection(rule._replace(spelling="rank1()"))


def adapters() -> Selection:
    """Selects u and v of all rank-1 matrices, and the biases of their layers: the adapters of TabM (Gorishniy et al., 2024)."""

    def pick(model: nn.Module) -> list[str]:
        layers = [(prefix, layer) for prefix, layer in model.named_modules() if is_parametrized(layer)]
        biases = [
            f"{prefix}.{name}".lstrip(".") for prefix, layer in layers for name in layer._parameters if name.startswith("bias")
        ]
        return [*rank1().names(model), *biases]

    return Selection(Rule("adapters()", pick))


def _weights(layer: nn.Module) -> Iterator[str]:
    if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        yield "weight"
    elif isinstance(layer, nn.RNNBase):
        yield from (name for name in layer._flat_weights_names if name.startswith("weight_hh"))


def _make_copyable(layer: nn.RNNBase) -> None:
    """Makes ``copy.deepcopy`` skip the weights of the last forward pass, which torch's recurrent layers keep.

    Those weights are part of the pass's graph, so they can't be copied. The next pass makes new ones. Changing the class affects
    this layer only, because torch has made the class for its parametrization.
    """
    as_torch_does = type(layer).__deepcopy__

    def deepcopy(self: nn.RNNBase, memo: dict[int, Any]) -> nn.RNNBase:
        memo.update((id(weight), None) for weight in self._flat_weights if not isinstance(weight, nn.Parameter))
        return as_torch_does(self, memo)

    type(layer).__deepcopy__ = deepcopy


def _multiply_once(layer: nn.RNNBase) -> None:
    """Makes a forward pass compute each product once, although torch's recurrent layers read each weight several times."""
    type(layer).forward = cached()(type(layer).forward)
