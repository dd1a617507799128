"""What tasks minimize and how ensembles predict, against scikit-learn and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, root_mean_squared_error

from late_phase.tasks.objective import Classification, Regression

RANDOM = np.random.default_rng(0)


def test_regression_learns_standardized_targets_and_tells_their_unit():
    targets = 200 + 30 * RANDOM.standard_normal(50)
    mean, std = targets.mean(), targets.std()
    objective, outputs = Regression(mean, std), torch.tensor(RANDOM.standard_normal((50, 1)))
    standardized = torch.tensor((targets - mean) / std)
    predictions = objective.predictions(outputs).numpy()
    np.testing.assert_allclose(predictions, mean + std * outputs.numpy()[:, 0])
    loss = objective.loss(outputs, standardized).item()
    shown = objective.in_training(loss, 0.0)
    assert shown == {"train_rmse": pytest.approx(root_mean_squared_error(targets, predictions))}
    assert objective.in_words(shown) == {"RMSE": f"{shown['train_rmse']:.4g}"}
    assert objective.correct(outputs, standardized) == 0


def test_regression_ensembles_predict_the_mean():
    members = torch.tensor(RANDOM.standard_normal((4, 50)))
    np.testing.assert_allclose(Regression(0.0, 1.0).combine(members), members.numpy().mean(0))


def test_regression_does_not_broadcast():
    """Outputs ``[examples, 1]`` against targets ``[examples]`` would silently make ``[examples, examples]`` differences."""
    outputs, targets = torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0])
    assert Regression(0.0, 1.0).loss(outputs, targets).item() == 2.0


def test_classification_is_cross_entropy():
    logits, labels = torch.tensor(RANDOM.standard_normal((30, 4))), torch.arange(30) % 4
    objective = Classification()
    probabilities = objective.predictions(logits).exp().numpy()
    assert objective.loss(logits, labels).item() == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    assert objective.correct(logits, labels) == (probabilities.argmax(1) == labels.numpy()).sum()
    assert objective.in_training(1.5, 0.25) == {"train_loss_nats": 1.5, "train_accuracy": 0.25}
    assert objective.in_words(objective.in_training(1.5, 0.25)) == {"loss": "1.500", "accuracy": "25.0%"}


def test_classification_ensembles_predict_the_mean_probability():
    members = torch.tensor(RANDOM.standard_normal((3, 30, 4))).log_softmax(-1)
    np.testing.assert_allclose(Classification().combine(members).exp(), members.exp().numpy().mean(0))
