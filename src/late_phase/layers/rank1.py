"""Late-phase rank-1 matrix weights (Section 2.2): a plain model's weight matrices are multiplied by rank-1 matrices."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import cached, register_parametrization

from late_phase.layers.fold import refuse_shared
from late_phase.selection import Selection, by_type


class Rank1(nn.Module):
    """W = (u vᵀ) ∘ θ, for θ ``[out, in, ...]``, u ``[out]`` and v ``[in]``; the same for all positions of a convolution's kernel.

    Args:
        weight: θ, for its shape, data type and device.
        spread: u and v are uniform in 1 ± ``spread``.
        generator: source of u and v, on any device; the global one of the CPU by default.
    """

    def __init__(self, weight: Tensor, spread: float = 0.0, generator: torch.Generator | None = None) -> None:
        super().__init__()

        def around_one(size: int) -> nn.Parameter:
            uniform = torch.rand(size, generator=generator, device=generator.device if generator else "cpu")
            return nn.Parameter((1 + spread * (2 * uniform - 1)).to(weight))

        self.u = around_one(weight.shape[0])
        self.v = around_one(weight.shape[1])

    def forward(self, weight: Tensor) -> Tensor:
        matrix = torch.outer(self.u, self.v)
        return matrix.reshape(matrix.shape + (1,) * (weight.dim() - 2)) * weight


def parametrize_rank1(model: nn.Module, spread: float = 0.0, generator: torch.Generator | None = None, matrices: str = "*") -> None:
    """Multiplies weights of a plain model by rank-1 matrices, in place; :func:`late_phase.layers.fold.fold` takes it back.

    These are the ``weight`` of linear and convolutional layers, and the recurrent matrices ``weight_hh_l...`` of ``nn.LSTM``,
    ``nn.GRU`` and ``nn.RNN``. With ``spread=0`` the model computes what it did. Build the optimizer after this.

    Args:
        spread: u and v are uniform in 1 ± ``spread``; the paper has 0.01.
        generator: source of u and v, on any device; the global one of the CPU by default.
        matrices: only those named like this; ``*`` and ``?`` as in a shell.

    Raises:
        ValueError: ``spread`` < 0, no such layer, a weight that layers share, or a model that has rank-1 weights already.
    """
    if not 0 <= spread < float("inf"):
        raise ValueError(f"spread={spread} is not a spread around 1: choose a number of at least 0, such as 0.01.")
    if any(isinstance(module, Rank1) for module in model.modules()):
        raise ValueError(f"{type(model).__name__} has rank-1 weights already: call parametrize_rank1() once.")
    found = {f"{prefix}.{name}".lstrip("."): (layer, name) for prefix, layer in model.named_modules() for name in _weights(layer)}
    if not found:
        raise ValueError(f"{type(model).__name__} has no linear, convolutional or recurrent layer: rank-1 weights need one.")
    weights = [weight for name, weight in found.items() if fnmatchcase(name, matrices)]
    if not weights:
        raise ValueError(f"matrices={matrices!r} matches none of the weights {', '.join(found)}: choose another pattern, or '*'.")
    refuse_shared(model, weights)
    for layer, name in weights:
        register_parametrization(layer, name, Rank1(getattr(layer, name), spread, generator))
    for layer in {layer for layer, _ in weights if isinstance(layer, nn.RNNBase)}:
        _make_copyable(layer)
        _multiply_once(layer)


def rank1() -> Selection:
    """u and v of all rank-1 matrices (Section 2.2, late-phase rank-1 matrix weights)."""
    (rule,) = by_type(Rank1).rules
    return Selection(rule._replace(spelling="rank1()"))


def _weights(layer: nn.Module) -> Iterator[str]:
    if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        yield "weight"
    elif isinstance(layer, nn.RNNBase):
        yield from (name for name in layer._flat_weights_names if name.startswith("weight_hh"))


def _make_copyable(layer: nn.RNNBase) -> None:
    """Lets ``copy.deepcopy`` pass over the weights of the last pass, which torch's recurrent layers hold on to.

    They are part of that pass' graph, and such tensors can't be copied; the next pass makes new ones. The class is the layer's
    own: torch has made it for the parametrization.
    """
    as_torch_does = type(layer).__deepcopy__

    def deepcopy(self: nn.RNNBase, memo: dict[int, Any]) -> nn.RNNBase:
        memo.update((id(weight), None) for weight in self._flat_weights if not isinstance(weight, nn.Parameter))
        return as_torch_does(self, memo)

    type(layer).__deepcopy__ = deepcopy


def _multiply_once(layer: nn.RNNBase) -> None:
    """Lets a pass make each product once: torch's recurrent layers look at each weight several times before they use it."""
    type(layer).forward = cached()(type(layer).forward)
