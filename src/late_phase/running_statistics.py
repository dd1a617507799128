"""BatchNorm running statistics of averaged weights.

Running statistics belong to the weights with which they were estimated. Averaged weights need statistics of their own. This module
computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from late_phase.weights import load


def normalization_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Returns all layers that estimate running statistics in training, such as torch's BatchNorm layers: name -> layer.

    Layers are recognized by their attributes, so a user's own class counts. torchvision's FrozenBatchNorm2d doesn't count: its
    buffers are constants, and it has no momentum.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "running_mean", None), Tensor)
        and isinstance(getattr(module, "running_var", None), Tensor)
        and hasattr(module, "momentum")
    }


def live_layers(model: nn.Module) -> list[nn.Module]:
    """Returns the normalization layers whose statistics training changes, which are all that the user hasn't frozen.

    In a model in training mode, a layer in eval mode is frozen. In a model in eval mode, a layer is frozen if it has scales and
    shifts and none of them needs a gradient.
    """

    def frozen(layer: nn.Module) -> bool:
        own = list(layer.parameters(recurse=False))
        return not layer.training if model.training else bool(own) and not any(parameter.requires_grad for parameter in own)

    return [layer for layer in normalization_layers(model).values() if not frozen(layer)]


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Returns all buffers of normalization layers by full name: running means and variances, and counts of minibatches."""
    layers = normalization_layers(model).items()
    named = ((prefix, name, value) for prefix, layer in layers for name, value in layer.named_buffers(recurse=False))
    return {f"{prefix}.{name}" if prefix else name: value for prefix, name, value in named}


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Puts the model into eval mode for the duration of a block, then restores the mode of each module."""
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
    """Re-estimates the running statistics of BatchNorm layers in place, by a pass over ``batches`` (Appendix A).

    All examples have the same weight. A layer weights each batch by n / (n + the number of earlier values), where n is the batch's
    number of values per channel. (``torch.optim.swa_utils.update_bn`` gives a short last batch the weight of a full one.)
    All other modules are in eval mode, so dropout is off. Layers that the user has frozen (:func:`live_layers`) and layers that the
    pass doesn't reach keep their statistics.

    Args:
        batches: inputs of the model, or tuples or lists whose first entry is the input.
        forward: runs the model on a batch as ``forward(model, batch)``. Pass it if the model takes several inputs or keywords.

    Raises:
        ValueError: there is no batch, or the pass reaches no BatchNorm layer.
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
        layer.training = n > 0  # the mean of an empty batch would be nan
        layer.momentum = n / max(seen[layer], 1)

    momenta = [(layer, layer.momentum) for layer in layers]
    hooks = [layer.register_forward_pre_hook(weigh, with_kwargs=True) for layer in layers]
    batch = None
    try:
        with evaluation_mode(model):
            for layer in layers:
                layer.training = True  # not train(), which would change the modules inside of the layer, too
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
    """Returns the running statistics for each of several sets of weights: full name -> ``[weights, ...]``.

    Args:
        model: takes each set of weights in turn, and keeps the last one.
        weights: the sets of weights, each as name -> tensor of the parameters in which the sets differ.
        batches: starts a pass over the training batches, see :func:`recompute_running_statistics`.
    """
    found: list[dict[str, Tensor]] = []
    for own in weights:
        load(model, own)
        recompute_running_statistics(model, batches())
        found.append({name: value.clone() for name, value in running_statistics(model).items()})
    return {name: torch.stack([statistics[name] for statistics in found]) for name in found[0]}


def fold_batchnorm(layer: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Folds K BatchNorm layers into one, whose output in eval mode is the mean of theirs.

    In eval mode member k maps x to s_k x + t_k with s_k = γ_k / sqrt(var_k + ε) and t_k = β_k - s_k μ_k. The mean over the members
    is a map of the same form. It has running mean 0, running variance 1, γ = sqrt(1 + ε) mean s_k and β = mean t_k.

    Args:
        layer: gives ε.
        values: the members' ``weight``, ``bias``, ``running_mean`` and ``running_var``, each ``[K, channels]``.

    Returns:
        The folded layer's ``weight``, ``bias``, ``running_mean`` and ``running_var``, each ``[channels]``.
    """
    scale = values["weight"] / torch.sqrt(values["running_var"] + layer.eps)
    shift = values["bias"] - scale * values["running_mean"]
    return {
        "weight": scale.mean(0) * (1 + layer.eps) ** 0.5,
        "bias": shift.mean(0),
        "running_mean": torch.zeros_like(values["running_mean"][0]),
        "running_var": torch.ones_like(values["running_var"][0]),
    }
