"""BatchNorm running statistics of averaged weights.

Running statistics belong to the weights they were estimated with. When weights are averaged, the average needs statistics of its
own; these are the ways to get them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from late_phase.weights import load


def normalization_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> layer for all layers that estimate running statistics in training, as torch's BatchNorm layers do.

    Recognised by what they have, so that a user's own class counts. torchvision's FrozenBatchNorm2d has such buffers, but as
    constants.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "running_mean", None), Tensor)
        and isinstance(getattr(module, "running_var", None), Tensor)
        and hasattr(module, "momentum")
    }


def live_layers(model: nn.Module) -> list[nn.Module]:
    """The layers among them whose statistics training changes: those that the user hasn't frozen.

    In a model in training mode a layer in eval mode is frozen. In a model in eval mode the modes don't tell; there a layer is
    frozen whose scales and shifts need no gradient.
    """

    def frozen(layer: nn.Module) -> bool:
        own = list(layer.parameters(recurse=False))
        return not layer.training if model.training else bool(own) and not any(parameter.requires_grad for parameter in own)

    return [layer for layer in normalization_layers(model).values() if not frozen(layer)]


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Full name -> buffer for all buffers of normalization layers: running means and variances, and counts of minibatches."""
    layers = normalization_layers(model).items()
    named = ((prefix, name, value) for prefix, layer in layers for name, value in layer.named_buffers(recurse=False))
    return {f"{prefix}.{name}" if prefix else name: value for prefix, name, value in named}


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[nn.Module]:
    """``model.eval()`` for a block; afterwards every module is back in the mode that it had, also if they differed."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def recompute_running_statistics(
    model: nn.Module, batches: Iterable, forward: Callable[[nn.Module, Any], Any] | None = None
) -> None:
    """Re-estimate the running statistics of BatchNorm layers by a pass over ``batches`` (Appendix A), in place.

    Each example counts the same: a layer mixes in what it gets with the weight n / (n + the number before), n being the number of
    values of each channel, whereas ``torch.optim.swa_utils.update_bn`` gives a short last batch the weight of a full one.
    Everything but BatchNorm is in eval mode, so dropout is off. Layers that the user has frozen (:func:`live_layers`), and layers
    that the pass doesn't reach, keep their statistics.

    Args:
        batches: what the model takes as its only argument, or tuples or lists whose first entry is that.
        forward: runs the model on a batch by ``forward(model, batch)``, where that is not enough, as with keywords.

    Raises:
        ValueError: there is no batch, or the pass reaches no layer.
    """
    layers = live_layers(model)
    if not layers:
        return
    seen: dict[nn.Module, int] = {}

    def weigh(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if layer not in seen:
            layer.running_mean.zero_()
            layer.running_var.fill_(1)
            if getattr(layer, "num_batches_tracked", None) is not None:
                layer.num_batches_tracked.zero_()
        inputs = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        n = inputs.numel() // layer.running_mean.numel()
        seen[layer] = seen.get(layer, 0) + n
        layer.training = n > 0  # the mean of nothing would be nan
        layer.momentum = n / max(seen[layer], 1)

    momenta = [(layer, layer.momentum) for layer in layers]
    hooks = [layer.register_forward_pre_hook(weigh, with_kwargs=True) for layer in layers]
    batch = None
    try:
        with evaluation_mode(model):
            for layer in layers:
                layer.training = True  # train() would do the same to what is inside of the layer
            for batch in batches:
                if forward is not None:
                    forward(model, batch)
                else:
                    model(batch[0] if isinstance(batch, (tuple, list)) else batch)
    finally:
        for hook in hooks:
            hook.remove()
        for layer, momentum in momenta:
            layer.momentum = momentum
    if not seen:
        raise ValueError(
            f"running statistics can't be recomputed from {'no batches' if batch is None else 'batches that reach no BatchNorm'}: "
            "pass training data."
        )


def recompute_for_each(
    model: nn.Module, weights: Iterable[Mapping[str, Tensor]], batches: Callable[[], Iterable]
) -> dict[str, Tensor]:
    """Running statistics that belong to each of several weights of one model, which is used up: full name -> ``[weights, ...]``.

    Args:
        weights: name -> tensor of the parameters in which they differ.
        batches: starts a pass over the training batches, see :func:`recompute_running_statistics`.
    """
    found: list[dict[str, Tensor]] = []
    for own in weights:
        load(model, own)
        recompute_running_statistics(model, batches())
        found.append({name: value.clone() for name, value in running_statistics(model).items()})
    return {name: torch.stack([statistics[name] for statistics in found]) for name in found[0]}


def fold(layer: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One BatchNorm layer equal to the mean of K BatchNorm layers' outputs in eval mode.

    In eval mode member k maps x to s_k x + t_k with s_k = γ_k / sqrt(var_k + ε) and t_k = β_k - s_k μ_k, so the mean over the
    members is again such a map: running mean 0, running variance 1, γ = sqrt(1 + ε) mean s_k, β = mean t_k.

    Args:
        layer: the layer, for its ε.
        values: ``weight``, ``bias``, ``running_mean``, ``running_var``, each ``[K, channels]``.

    Returns:
        The folded layer's ``weight``, ``bias``, ``running_mean``, ``running_var``, each ``[channels]``.
    """
    scale = values["weight"] / torch.sqrt(values["running_var"] + layer.eps)
    shift = values["bias"] - scale * values["running_mean"]
    return {
        "weight": scale.mean(0) * (1 + layer.eps) ** 0.5,
        "bias": shift.mean(0),
        "running_mean": torch.zeros_like(values["running_mean"][0]),
        "running_var": torch.ones_like(values["running_var"][0]),
    }
