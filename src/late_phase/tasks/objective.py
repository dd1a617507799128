"""What a task minimizes, what it counts in training, and how the predictions of several models become one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from late_phase.ensemble import ensemble_log_probs


class Objective(ABC):
    """The objective of a task. ``outputs`` are a model's outputs for a minibatch, with one row for each of the ``targets``."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean loss of a minibatch, which training minimizes."""

    @abstractmethod
    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns how many examples are predicted correctly. It is 0 where predictions are not right or wrong."""

    @abstractmethod
    def in_training(self, loss: float, correct: float) -> dict[str, float]:
        """Returns the columns of ``history.csv`` for an epoch of training.

        Args:
            loss: mean over the epoch's examples.
            correct: share of correct predictions, 0 to 1.
        """

    @abstractmethod
    def in_words(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Returns what the progress bar shows of the columns that :meth:`in_training` made: name -> value in words."""

    @abstractmethod
    def predictions(self, outputs: Tensor) -> Tensor:
        """Returns a model's predictions, in the form in which they are kept and measured: ``[examples, ...]`` for each."""

    @abstractmethod
    def combine(self, predictions: Tensor) -> Tensor:
        """Returns the prediction of an ensemble: ``[members, examples, ...]`` -> ``[examples, ...]``."""


class Classification(Objective):
    """Cross entropy of logits ``[examples, classes]`` with labels ``[examples]``. Predictions are log-probabilities."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == targets).sum()

    def in_training(self, loss: float, correct: float) -> dict[str, float]:
        return {"train_loss_nats": loss, "train_accuracy": correct}

    def in_words(self, row: Mapping[str, Any]) -> dict[str, str]:
        return {"loss": f"{row['train_loss_nats']:z.3f}", "accuracy": f"{row['train_accuracy']:z.1%}"}

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.float().log_softmax(-1)

    def combine(self, predictions: Tensor) -> Tensor:
        """Returns the logarithm of the members' mean probabilities."""
        return ensemble_log_probs(predictions)


class Regression(Objective):
    """Mean squared error of outputs ``[examples, 1]``, in standardized units. Predictions ``[examples]`` are in the target's unit.

    Args:
        mean, std: mean and standard deviation of the training targets. They turn standardized units into the target's.
    """

    def __init__(self, mean: float, std: float) -> None:
        self.mean, self.std = mean, std

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs[:, 0], targets)

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return targets.new_zeros(())

    def in_training(self, loss: float, correct: float) -> dict[str, float]:
        return {"train_rmse": self.std * loss**0.5}

    def in_words(self, row: Mapping[str, Any]) -> dict[str, str]:
        return {"RMSE": f"{row['train_rmse']:.4g}"}

    def predictions(self, outputs: Tensor) -> Tensor:
        return self.mean + self.std * outputs[:, 0].double()

    def combine(self, predictions: Tensor) -> Tensor:
        """Returns the members' mean prediction."""
        return predictions.mean(0)
