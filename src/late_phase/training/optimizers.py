"""Optimizers by name, with torch's fused implementations: one call for all parameters, on every device."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from late_phase.selection import Selection

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


def build(
    name: str, model: nn.Module, exceptions: Iterable[tuple[Selection, dict[str, float]]] = (), **options: float
) -> torch.optim.Optimizer:
    """The optimizer ``name`` with ``options`` such as ``lr`` and ``weight_decay``, as torch names them.

    Args:
        exceptions: selections of parameters, none of them twice, and the options that these have instead, at any
            time. Each parameter group keeps its learning rate as ``base_lr``, for schedules.
    """
    parameters = dict(model.named_parameters())
    groups = []
    for select, own in exceptions:
        groups.append({"params": [parameters.pop(name) for name in select.names(model)], "fixed": tuple(own), **own})
    groups.insert(0, {"params": list(parameters.values())})
    for group in groups:
        group["base_lr"] = group.get("lr", options["lr"])
    return OPTIMIZERS[name](groups, fused=True, **options)
