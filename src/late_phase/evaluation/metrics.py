"""Metrics of predictive distributions, from log-probabilities."""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy(log_probs: Tensor, labels: Tensor) -> float:
    """Share of examples whose likeliest class is the label, 0 to 1.

    Args:
        log_probs: ``[examples, classes]``.
        labels: ``[examples]``.
    """
    return (log_probs.argmax(-1) == labels).double().mean().item()


def label_log_probs(log_probs: Tensor, labels: Tensor) -> Tensor:
    """The labels' log-probabilities: ``[..., examples, classes]`` and ``[examples]`` -> ``[..., examples]``."""
    return log_probs.gather(-1, labels.expand(log_probs.shape[:-1])[..., None])[..., 0]


def nll(label_log_probs: Tensor) -> float:
    """Mean negative log-likelihood in nats per example, from the labels' log-probabilities ``[examples]``."""
    return -label_log_probs.double().mean().item()


def ece(log_probs: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error (Guo et al., 2017), 0 to 1: mean over examples of |accuracy - confidence| in bins of equal width.

    A bin holds the confidences above its lower edge up to and including its upper one.
    """
    confidence, predicted = log_probs.double().exp().max(-1)
    gap = (predicted == labels).double() - confidence
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    sums = torch.zeros(bins, dtype=torch.float64).index_add_(0, torch.bucketize(confidence, edges), gap)
    return (sums.abs().sum() / len(labels)).item()
