"""Reads, loads and replaces a model's weights by name."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Returns all parameters and buffers: full name -> tensor. A tied parameter appears once, under its first name."""
    return {name: tensor.detach() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


@torch.no_grad()
def load(model: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """Copies ``values`` into the parameters and buffers of these names, and returns the model. All others stay as they are."""
    own = tensors(model)
    for name, value in values.items():
        own[name].copy_(value)
    torch.clear_autocast_cache()  # otherwise an open autocast block would keep using the previous values
    return model


def unwrapped(model: nn.Module) -> nn.Module:
    """Returns the plain module inside of wrappers made by torch.compile, DistributedDataParallel and DataParallel."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return model


def state_with(model: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns a copy of the model's ``state_dict`` in which ``values`` replace the parameters and buffers of these names.

    Parameters and buffers are also found by their place in memory. So a tied parameter gets its value under each of its names.

    Raises:
        RuntimeError: the ``state_dict`` lacks one of these parameters.
    """

    def place(tensor: Tensor) -> tuple[int, torch.Size]:
        return tensor.data_ptr(), tensor.shape

    names = {place(tensor): name for name, tensor in tensors(model).items() if name in values}
    state, copies, found = {}, {}, set()
    for key, value in model.state_dict().items():
        name = key
        if isinstance(value, Tensor) and key not in values:
            name = names.get(place(value), key)
        found.add(name)
        if name in values:
            state[key] = values[name]
        elif isinstance(value, Tensor):
            state[key] = copies.setdefault(place(value), value.detach().clone())  # one copy for a tied parameter
        else:
            state[key] = copy.deepcopy(value)
    for name, _ in model.named_parameters():
        if name in values and name not in found:
            raise RuntimeError(
                f"the model's state_dict() has no {name}, so it can't hold its average: average late.members yourself."
            )
    return state
