"""Finds the weight matrices of a model that a parametrization is for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from torch import nn

from late_phase.layers.fold import refuse_shared


def find_matrices(
    model: nn.Module, own: Callable[[nn.Module], Iterable[str]], kinds: str, what: str, matrices: str
) -> list[tuple[nn.Module, str]]:
    """Returns the weights whose names match a pattern, as pairs of a layer and the name of its weight.

    Args:
        own: returns the names of a layer's own weights, of which the pattern chooses some.
        kinds, what: the layers that have any, and what needs them, for a message.
        matrices: pattern for the full names; ``*`` and ``?`` work as in a shell.

    Raises:
        ValueError: no layer has such weights, no weight matches, or layers share a weight.
    """
    found = {f"{prefix}.{name}".lstrip("."): (layer, name) for prefix, layer in model.named_modules() for name in own(layer)}
    if not found:
        raise ValueError(f"{type(model).__name__} has no {kinds} layer: {what} need one.")
    weights = [weight for name, weight in found.items() if fnmatchcase(name, matrices)]
    if not weights:
        raise ValueError(f"matrices={matrices!r} matches none of the weights {', '.join(found)}: choose another pattern, or '*'.")
    refuse_shared(model, weights)
    return weights
