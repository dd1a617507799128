"""Predictions and metrics for tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from late_phase.evaluation.predictors import Predictor, predict_parts

EVALUATION_BATCH_SIZE = 8192

Predictions = Callable[[Tensor], Tensor]
"""Turns a model's outputs into predictions, see ``tasks.objective.Objective.predictions``."""


def predict(predictor: Predictor, parts: Mapping[str, Tensor], predictions: Predictions, seed: int = 0) -> dict[str, Tensor]:
    """Returns the predictions of all members for each part, on the CPU.

    Args:
        parts: part -> inputs ``[rows, inputs]``.
        seed: seeds the random parts of the models, such as MC-dropout.

    Returns:
        Part -> log-probabilities ``[members, rows, classes]``, or numbers in the target's unit ``[members, rows]``.
    """

    def of_rows(model: nn.Module, inputs: Tensor) -> Tensor:
        return torch.cat([predictions(model(batch)) for batch in inputs.split(EVALUATION_BATCH_SIZE)]).cpu()

    return predict_parts(predictor, parts, of_rows, seed)


def regression_metrics(part: str, predicted: Tensor, targets: Tensor) -> dict[str, float]:
    """Returns ``<part>_rmse`` in the target's unit, and ``<part>_r2``, the share of the targets' variance that is explained.

    Args:
        predicted, targets: ``[rows]``, in the target's unit. If all targets are equal, R² is 1 for exact predictions, else 0.
    """
    squared = (predicted.double() - targets.double()).square().mean().item()
    variance = targets.double().var(correction=0).item()
    return {f"{part}_rmse": squared**0.5, f"{part}_r2": 1 - squared / variance if variance else float(squared == 0)}
