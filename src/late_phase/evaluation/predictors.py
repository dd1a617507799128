"""Predictors: one model, or several in turn. Every method that integrates over models comes down to a predictor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from late_phase.running_statistics import evaluation_mode
from late_phase.support.seeding import global_generators
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


@torch.no_grad()
def predict_parts(
    predictor: Predictor, parts: Mapping[str, Any], predicted_by: Callable[[nn.Module, Any], Tensor], seed: int = 0
) -> dict[str, Tensor]:
    """Returns all members' predictions of each part, ``[members, ...]``.

    Args:
        parts: part -> its data, which tell their ``device``, as inputs ``[rows, inputs]`` and images do.
        predicted_by: returns a member's predictions of a part when called as ``predicted_by(model, data)``.
        seed: seeds the random parts of the models, such as MC-dropout. A member's randomness depends on the seed, on its number and
            on the part, not on what was computed before.
    """
    predicted: dict[str, list[Tensor]] = {part: [] for part in parts}
    for k, model in enumerate(predictor()):
        for part, data in parts.items():
            with global_generators(data.device, seed, "predict", k, part):
                predicted[part].append(predicted_by(model, data))
    return {part: torch.stack(members) for part, members in predicted.items()}


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
