"""From reparametrized models back to plain ones."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations


def fold(model: nn.Module) -> nn.Module:
    """Makes plain parameters of all parametrized ones, in place: each keeps its present value; the model is returned.

    Classes, and the names and the order of the parameters, become those of the plain model, whose ``load_state_dict`` takes the
    result. A model without parametrizations stays as it is. Other copies of the model, parametrized, are left as they are.
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
    # Not by torch's remove_parametrizations: it takes the tensor's property from a class that deep copies have in common.
    layer.__class__ = type_before_parametrizations(layer)
    del layer.parametrizations
    # Parametrized tensors have left their places. In torch's layers weights come first, and recurrent layers know their order.
    order = dict.fromkeys([*getattr(layer, "_flat_weights_names", ()), *values, *layer._parameters])
    parameters = values | layer._parameters
    layer._parameters = {name: parameters[name] for name in order}
    if isinstance(layer, nn.RNNBase):
        layer._init_flat_weights()


def refuse_shared(model: nn.Module, weights: list[tuple[nn.Module, str]]) -> None:
    """Refuses weights that layers share: after folding, each layer would have its own, and the plain model has one for all.

    Args:
        weights: layers, and names of their weights.

    Raises:
        ValueError: another layer has one of these weights, too.
    """
    owners: dict[int, list[str]] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False, remove_duplicate=False):
            owners.setdefault(id(parameter), []).append(name)
    for layer, name in weights:
        names = owners.get(id(getattr(layer, name)), [])
        if len(names) > 1:
            raise ValueError(f"{' and '.join(names)} are one parameter: build the model with a weight for each layer.")
