"""Predictors: one model, or several in turn. Every method that integrates over models comes down to a predictor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor, nn

from late_phase.running_statistics import evaluation_mode
from late_phase.weights import load

Predictor = Callable[[], Iterator[nn.Module]]
"""Yields the members of an ensemble in turn, each a model in the mode that it predicts in.

Each member must be used before the next is taken.
"""


class Single:
    """The predictor of one model, in eval mode."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self) -> Iterator[nn.Module]:
        with evaluation_mode(self.model):
            yield self.model


def is_ensemble(model: nn.Module) -> bool:
    """Tells whether a model is an ensemble by itself.

    Such a model has ``plain_models()``, which yields its members as plain models.
    """
    return hasattr(type(model), "plain_models")


def predictor_of(model: nn.Module) -> Predictor:
    """Returns the predictor of a model: its members if it is an ensemble by itself, or else the model itself."""
    return model.plain_models if is_ensemble(model) else Single(model)


def members(model: nn.Module, values: Mapping[str, Tensor]) -> Predictor:
    """Returns the predictor that gives a copy of the model each member's values in turn.

    Args:
        values: name of a parameter or buffer -> ``[members, ...]``.

    Raises:
        KeyError: the model has no such parameter or buffer.
    """
    model = load(copy.deepcopy(model).eval(), {name: stacked[0] for name, stacked in values.items()})

    def models() -> Iterator[nn.Module]:
        for k in range(len(next(iter(values.values())))):
            yield load(model, {name: stacked[k] for name, stacked in values.items()})

    return models
