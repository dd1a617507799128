"""BatchEnsemble (Wen et al., 2020): an ensemble within one model. Member k has the weights W ∘ (s_k r_kᵀ)."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from late_phase.checks import number_of_members
from late_phase.layers.fold import refuse_shared
from late_phase.selection import Rule, Selection

INITS = ("normal", "sign")
"""Fast weights start from a normal distribution with mean 1 and standard deviation 0.5, or from random signs."""


class EnsembleLayer(nn.Module):
    """K linear layers or convolutions with a shared W, which compute s_k ∘ (W (r_k ∘ x)) + b_k.

    Inputs are ``[K * examples, ...]``: the examples of member 0, then those of member 1, and so on.

    Args:
        layer: the plain layer, which is kept for its W. Its bias is removed; every member's bias starts from it.
        K: number of members.
        init: one of ``INITS``.
        generator: source of r ``[K, in]`` and s ``[K, out]``, on any device; the global CPU generator by default.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, K: int, init: str, generator: torch.Generator | None) -> None:
        super().__init__()

        def fast_weights(size: int) -> nn.Parameter:
            values = torch.empty(K, size, device=generator.device if generator else "cpu")
            if init == "normal":
                values.normal_(1, 0.5, generator=generator)
            else:
                values.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
            return nn.Parameter(values.to(layer.weight))

        self.r = fast_weights(layer.weight.shape[1])
        self.s = fast_weights(layer.weight.shape[0])
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().repeat(K, 1))
        self.shared = layer
        layer.bias = None

    def forward(self, x: Tensor) -> Tensor:
        # Scaling the weights rather than the larger inputs and outputs is more than twice as fast on a CPU.
        parts = [self._layer(part, *self._member(k)) for k, part in enumerate(x.chunk(len(self.r)))]
        return torch.cat(parts)

    def _layer(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if isinstance(self.shared, nn.Conv2d):
            return self.shared._conv_forward(x, weight, bias)  # handles all padding modes
        return F.linear(x, weight, bias)

    def _member(self, k: int) -> tuple[Tensor, Tensor | None]:
        """Returns the weight and bias of member k."""
        matrix = torch.outer(self.s[k], self.r[k])
        weight = self.shared.weight * matrix.reshape(matrix.shape + (1,) * (self.shared.weight.dim() - 2))
        return weight, None if self.bias is None else self.bias[k]

    @torch.no_grad()
    def plain(self, k: int) -> nn.Linear | nn.Conv2d:
        """Returns member k's layer as a plain one."""
        layer = copy.deepcopy(self.shared)
        weight, bias = self._member(k)
        layer.weight.copy_(weight)
        layer.bias = None if bias is None else nn.Parameter(bias.clone())
        return layer


OTHERS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, EnsembleLayer)
"""Layers that are refused, with their subclasses, because members would share them without fast weights.

Plain ``nn.Linear`` and ``nn.Conv2d`` without groups are exceptions.
"""


class BatchEnsemble(nn.Module):
    """Puts an ensemble into a plain model: minibatch ``[examples, ...]`` -> logits ``[K * examples, classes]``, member by member.

    Each ``nn.Linear`` and ``nn.Conv2d`` is replaced, in place, by an :class:`EnsembleLayer`. The minibatch is repeated K times. All
    other layers, such as BatchNorm and dropout, see the K copies together.

    Args:
        model: any module whose first dimension is the examples.
        K: number of members.
        init: start of the fast weights r and s: ``normal`` (mean 1, standard deviation 0.5) or ``sign`` (±1).
        generator: source of r and s, on any device; the global CPU generator by default.

    Raises:
        ValueError: K < 1, ``init`` is unknown, the model has no layer to replace, or layers share a weight. Or there is another
            layer with a weight matrix: a convolution with groups or of another dimension, a recurrent layer, a subclass, or a
            layer that is in a BatchEnsemble already.
    """

    def __init__(self, model: nn.Module, K: int, init: str = "normal", generator: torch.Generator | None = None) -> None:
        super().__init__()
        K = number_of_members(K)
        if init not in INITS:
            raise ValueError(f"init={init!r} is unknown: choose one of {', '.join(INITS)}.")
        layers = []
        for name, module in model.named_modules():
            if type(module) in (nn.Linear, nn.Conv2d) and getattr(module, "groups", 1) == 1:
                layers.append(module)
            elif isinstance(module, OTHERS):
                groups = f" with groups={module.groups}" if getattr(module, "groups", 1) > 1 else ""
                raise ValueError(
                    f"layer {name or 'model'} is of type {type(module).__name__}{groups}, for which fast weights are not defined: "
                    "use nn.Linear and nn.Conv2d without groups."
                )
        if not layers:
            raise ValueError(f"{type(model).__name__} has no nn.Linear or nn.Conv2d: fast weights need one.")
        refuse_shared(model, [(layer, "weight") for layer in layers])
        self.K = K
        self.model = model
        replacements = {layer: EnsembleLayer(layer, K, init, generator) for layer in layers}
        for parent in list(self.modules()):
            for name, child in parent._modules.items():  # named_children() would give only one name of each child
                if child in replacements:
                    setattr(parent, name, replacements[child])

    def forward(self, x: Tensor) -> Tensor:
        return self.model(torch.cat([x] * self.K))

    def plain(self, k: int) -> nn.Module:
        """Returns member k: a plain copy of the model, with W ∘ (s_k r_kᵀ) and b_k.

        Raises:
            IndexError: there is no member k.
        """
        if not 0 <= k < self.K:
            raise IndexError(f"plain({k}) does not exist: there are K={self.K} members, counted from 0.")
        plain = {id(layer): layer.plain(k) for layer in self.modules() if isinstance(layer, EnsembleLayer)}
        return copy.deepcopy(self.model, plain)

    def plain_models(self) -> Iterator[nn.Module]:
        """Yields the members one after another, as plain models in eval mode."""
        for k in range(self.K):
            yield self.plain(k).eval()


def fast_weights() -> Selection:
    """Selects r and s of all layers of a :class:`BatchEnsemble`."""

    def pick(model: nn.Module) -> list[str]:
        layers = [name for name, module in model.named_modules() if isinstance(module, EnsembleLayer)]
        return [f"{name}.{key}" for name in layers for key in ("r", "s")]

    return Selection(Rule("fast_weights()", pick))
