"""Optimizers by name, with torch's fused implementations: one call for all parameters, on every device."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


def build(name: str, parameters: Iterable[nn.Parameter], **options: float) -> torch.optim.Optimizer:
    """The optimizer ``name`` with ``options`` such as ``lr`` and ``weight_decay``, as torch names them."""
    return OPTIMIZERS[name](parameters, fused=True, **options)
