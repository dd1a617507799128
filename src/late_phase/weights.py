"""Weights by name, and models."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Full name -> tensor for all parameters and buffers, each of them once: a tied parameter goes by its first name."""
    return {name: tensor.detach() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


@torch.no_grad()
def load(model: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """Copies ``values`` into the parameters and buffers of these names; others stay as they are."""
    own = tensors(model)
    for name, value in values.items():
        own[name].copy_(value)
    torch.clear_autocast_cache()  # within an autocast block the former values would go on being used
    return model
