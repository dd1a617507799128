"""BatchEnsemble (Wen et al., 2020): an ensemble within one model. Member k has the weights W ∘ (s_k r_kᵀ)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from late_phase.checks import number_of_members
from late_phase.layers.fold import refuse_shared
from late_phase.layers.rank1 import rank1_product
from late_phase.selection import Rule, Selection

INITS = ("normal", "sign", "first")
"""Fast weights start from a normal distribution with mean 1 and standard deviation 0.5, or from random signs, or, as in TabM
(Gorishniy et al., 2024), from 1 except for the r of the first layer, which start from random signs."""


class EnsembleLayer(nn.Module):
    """K linear layers or convolutions with a shared W, which compute s_k ∘ (W (r_k ∘ x)) + b_k.

    Inputs are ``[K * examples, ...]``: the examples of member 0, then those of member 1, and so on.

    Args:
        layer: the plain layer, which is kept for its W. Its bias is removed; every member's bias starts from it.
        K: number of members.
        init: ``normal``, ``sign`` or ``ones``; a pair if r and s start differently.
        generator: source of r ``[K, in]`` and s ``[K, out]``, on any device; the global CPU generator by default.
    """

    def __init__(
        self, layer: nn.Linear | nn.Conv2d, K: int, init: str | tuple[str, str], generator: torch.Generator | None
    ) -> None:
        super().__init__()

        def fast_weights(size: int, init: str) -> nn.Parameter:
            values = torch.ones(K, size, device=generator.device if generator else "cpu")
            if init == "normal":
                values.normal_(1, 0.5, generator=generator)
            elif init == "sign":
                values.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
            return nn.Parameter(values.to(layer.weight))

        of_r, of_s = (init, init) if isinstance(init, str) else init
        self.r = fast_weights(layer.weight.shape[1], of_r)
        self.s = fast_weights(layer.weight.shape[0], of_s)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().repeat(K, 1))
        self.shared = layer
        layer.bias = None

    def forward(self, x: Tensor) -> Tensor:
        # Scaling the weights rather than the larger inputs and outputs is more than twice as fast on a CPU.
        parts = [self._layer(part, *self._member(k)) for k, part in enumerate(x.tensor_split(len(self.r)))]
        return torch.cat(parts)

    def _layer(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if isinstance(self.shared, nn.Conv2d):
            return self.shared._conv_forward(x, weight, bias)  # handles all padding modes
        return F.linear(x, weight, bias)

    def _member(self, k: int) -> tuple[Tensor, Tensor | None]:
        """Returns the weight and bias of member k."""
        return rank1_product(self.shared.weight, self.s[k], self.r[k]), None if self.bias is None else self.bias[k]

    def plain(self, k: int) -> nn.Linear | nn.Conv2d:
        """Returns member k's layer as a plain one."""
        return self._plain(*self._member(k))

    def average(self) -> nn.Linear | nn.Conv2d:
        """Returns the plain layer with the means over members of r, s and the bias."""
        return self._plain(
            rank1_product(self.shared.weight, self.s.mean(0), self.r.mean(0)), None if self.bias is None else self.bias.mean(0)
        )

    @torch.no_grad()
    def _plain(self, weight: Tensor, bias: Tensor | None) -> nn.Linear | nn.Conv2d:
        layer = copy.deepcopy(self.shared)
        layer.weight.copy_(weight)
        layer.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        return layer


OTHERS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, EnsembleLayer)
"""Layers that are refused, with their subclasses, because members would share them without fast weights.

Plain ``nn.Linear`` and ``nn.Conv2d`` without groups are exceptions.
"""


class BatchEnsemble(nn.Module):
    """Puts an ensemble into a plain model: minibatch ``[examples, ...]`` -> logits ``[K * examples, classes]``, member by member.

    Each ``nn.Linear`` and ``nn.Conv2d`` is replaced, in place, by an :class:`EnsembleLayer`. The minibatch is repeated K times. All
    other layers, such as BatchNorm and dropout, see the K copies together.

    With ``own_minibatches`` the members share out the examples of a minibatch in training mode, as evenly as possible and in their
    order: the logits are ``[examples, classes]``, and each member learns from its own K-th of the examples.

    Args:
        model: any module whose first dimension is the examples.
        K: number of members.
        init: start of the fast weights r and s, one of ``INITS``.
        own_minibatches: whether the members share out the minibatches in training.
        generator: source of r and s, on any device; the global CPU generator by default.

    Raises:
        ValueError: K < 1, ``init`` is unknown, the model has no layer to replace, or layers share a weight. Or there is another
            layer with a weight matrix: a convolution with groups or of another dimension, a recurrent layer, a subclass, or a
            layer that is in a BatchEnsemble already.
    """

    def __init__(
        self,
        model: nn.Module,
        K: int,
        init: str = "normal",
        generator: torch.Generator | None = None,
        own_minibatches: bool = False,
    ) -> None:
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
        self.own_minibatches = own_minibatches
        inits = [init] * len(layers) if init != "first" else [("sign", "ones"), *["ones"] * (len(layers) - 1)]
        replacements = {layer: EnsembleLayer(layer, K, own, generator) for layer, own in zip(layers, inits, strict=True)}
        for parent in list(self.modules()):
            for name, child in parent._modules.items():  # named_children() would give only one name of each child
                if child in replacements:
                    setattr(parent, name, replacements[child])

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x if self.own_minibatches and self.training else torch.cat([x] * self.K))

    def plain(self, k: int) -> nn.Module:
        """Returns member k: a plain copy of the model, with W ∘ (s_k r_kᵀ) and b_k.

        Raises:
            IndexError: there is no member k.
        """
        if not 0 <= k < self.K:
            raise IndexError(f"plain({k}) does not exist: there are K={self.K} members, counted from 0.")
        return self._with(lambda layer: layer.plain(k))

    def average(self) -> nn.Module:
        """Returns the average of the members (Eq. 1): a plain copy of the model with the means of r_k, s_k and b_k."""
        return self._with(EnsembleLayer.average)

    def _with(self, plain: Callable[[EnsembleLayer], nn.Module]) -> nn.Module:
        """Returns a copy of the model with plain layers."""
        return copy.deepcopy(self.model, {id(layer): plain(layer) for layer in self.modules() if isinstance(layer, EnsembleLayer)})

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
