"""Turns reparametrized models back into plain ones."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations


def fold(model: nn.Module) -> nn.Module:
    """Turns all parametrized weights into plain parameters with their current values, in place, and returns the model.

    The model gets the classes, names and parameter order of the plain model, so the plain model can load its ``state_dict``. A
    model without parametrizations stays as it is. Other copies of the model keep their parametrizations.
    """
    for module in list(model.modules()):
        if is_parametrized(module):
            _fold_layer(module)
    return model


def _fold_layer(layer: nn.Module) -> None:
    values = {}
    for name, parametrization in layer.parametrizations.items():
        with torch.no_grad():
            value = getattr(layer, name)
        values[name] = nn.Parameter(value, any(parameter.requires_grad for parameter in parametrization.parameters()))
    # torch's remove_parametrizations would delete the tensor's property from a class that all deep copies share.
    layer.__class__ = type_before_parametrizations(layer)
    del layer.parametrizations
    # Restores the order of the parameters. torch's layers have weights first, and recurrent layers store their order.
    order = dict.fromkeys([*getattr(layer, "_flat_weights_names", ()), *values, *layer._parameters])
    parameters = values | layer._parameters
    layer._parameters = {name: parameters[name] for name in order}
    if isinstance(layer, nn.RNNBase):
        layer._init_flat_weights()


def refuse_shared(model: nn.Module, weights: list[tuple[nn.Module, str]]) -> None:
    """Refuses shared weights. After folding, each layer would have its own, whereas the plain model has one for all of them.

    Args:
        weights: pairs of a layer and the name of its weight.

    Raises:
        ValueError: one of these weights belongs to several layers.
    """
    owners: dict[int, list[str]] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False, remove_duplicate=False):
            owners.setdefault(id(parameter), []).append(name)
    for layer, name in weights:
        names = owners.get(id(getattr(layer, name)), [])
        if len(names) > 1:
            raise ValueError(
                f"{' and '.join(names)} are one parameter: build the model with a separate weight for each layer, or leave it out."
            )
