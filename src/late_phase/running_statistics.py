"""BatchNorm running statistics of averaged weights.

Running statistics belong to the weights they were estimated with. When weights are averaged, the average needs statistics of its
own; these are the ways to get them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from late_phase.weights import load


def normalization_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> layer for all layers that track running statistics, recognised by their buffers so that a user's own class counts."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "running_mean", None), Tensor) and isinstance(getattr(module, "running_var", None), Tensor)
    }


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Full name -> buffer for all buffers of these layers: running means and variances, and counts of minibatches."""
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
def recompute_running_statistics(model: nn.Module, batches: Iterable) -> None:
    """Re-estimate the running statistics of all BatchNorm layers by a pass over ``batches`` (Appendix A), in place.

    Each example counts the same: a batch of b examples after n others is mixed in with weight b / (n + b), whereas
    ``torch.optim.swa_utils.update_bn`` gives a short last batch the weight of a full one. Everything but BatchNorm is in eval mode,
    so dropout is off.

    Args:
        batches: tensors ``[examples, ...]``, or tuples or lists whose first entry is that tensor.

    Raises:
        ValueError: there is no batch.
    """
    layers = normalization_layers(model).values()
    if not layers:
        return
    momenta = [(layer, layer.momentum) for layer in layers]
    seen = 0
    with evaluation_mode(model):
        for layer in layers:
            layer.training = True  # train() would do the same to what is inside of the layer
        try:
            for batch in batches:
                inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
                if not seen:
                    for layer in layers:
                        layer.reset_running_stats()
                seen += len(inputs)
                for layer in layers:
                    layer.momentum = len(inputs) / seen
                model(inputs)
        finally:
            for layer, momentum in momenta:
                layer.momentum = momentum
    if not seen:
        raise ValueError("running statistics can't be recomputed from no batches: pass training data.")


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
