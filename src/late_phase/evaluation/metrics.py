"""Metrics of predictive distributions, from log-probabilities.

All raise a ValueError where there are no examples: a mean over none is no number.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def accuracy(log_probs: Tensor, labels: Tensor) -> float:
    """Share of examples whose likeliest class is the label, 0 to 1.

    Args:
        log_probs: ``[examples, classes]``.
        labels: ``[examples]``.
    """
    _refuse_none(labels)
    return (log_probs.argmax(-1) == labels).double().mean().item()


def label_log_probs(log_probs: Tensor, labels: Tensor) -> Tensor:
    """The labels' log-probabilities: ``[..., examples, classes]`` and ``[examples]`` -> ``[..., examples]``."""
    return log_probs.gather(-1, labels.expand(log_probs.shape[:-1])[..., None])[..., 0]


def nll(label_log_probs: Tensor) -> float:
    """Mean negative log-likelihood in nats per example, from the labels' log-probabilities ``[examples]``."""
    _refuse_none(label_log_probs)
    return -label_log_probs.double().mean().item()


def ece(log_probs: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error (Guo et al., 2017), 0 to 1: mean over examples of |accuracy - confidence| in bins of equal width.

    A bin holds the confidences above its lower edge up to and including its upper one.
    """
    _refuse_none(labels)
    confidence, predicted = log_probs.double().exp().max(-1)
    gap = (predicted == labels).double() - confidence
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    sums = torch.zeros(bins, dtype=torch.float64).index_add_(0, torch.bucketize(confidence, edges), gap)
    return (sums.abs().sum() / len(labels)).item()


def brier(log_probs: Tensor, labels: Tensor) -> float:
    """Brier score, 0 to 2: squared distance of ``[examples, classes]`` from the label, summed over classes, mean over examples."""
    _refuse_none(labels)
    probs = log_probs.double().exp()
    return (probs - F.one_hot(labels, probs.shape[-1])).square().sum(-1).mean().item()


def entropy(log_probs: Tensor) -> Tensor:
    """Predictive entropy in nats, in double precision: ``[..., classes]`` -> ``[...]``. Of p = 0 it is 0."""
    log_probs = _normalized(log_probs)
    return (log_probs.exp() * -log_probs.clamp(min=torch.finfo(log_probs.dtype).min)).sum(-1)


def disagreement(log_probs: Tensor) -> float:
    """Share of examples, 0 to 1, that two members predict differently: mean over pairs of members.

    Args:
        log_probs: ``[members, examples, classes]``.

    Raises:
        ValueError: there are fewer than two members, or no examples.
    """
    _refuse_no_pairs(log_probs)
    predicted = log_probs.argmax(-1)
    differ = (predicted[:, None] != predicted).double().mean(-1)
    return (differ.sum() / _ordered_pairs(log_probs)).item()


def pairwise_kl(log_probs: Tensor) -> float:
    """KL(p_i || p_j) in nats, mean over examples and over ordered pairs of members i != j; infinite where p_j = 0 < p_i.

    Args:
        log_probs: ``[members, examples, classes]``.

    Raises:
        ValueError: there are fewer than two members, or no examples.
    """
    _refuse_no_pairs(log_probs)
    total = 0.0
    for i, own in enumerate(log_probs):
        own = _normalized(own)
        probs = own.exp()
        for j, other in enumerate(log_probs):
            if i != j:
                total += torch.where(probs > 0, probs * (own - _normalized(other)), 0).sum().item()
    return total / (_ordered_pairs(log_probs) * log_probs.shape[1])


def _normalized(log_probs: Tensor) -> Tensor:
    """In double precision, with a sum of 1 in it. In single precision the log of a probability near 1 has lost its digits; the
    small probabilities beside it still have theirs, and give them back."""
    return log_probs.double().log_softmax(-1)


def _ordered_pairs(members: Tensor) -> int:
    return len(members) * (len(members) - 1)


def _refuse_none(examples: Tensor) -> None:
    if not len(examples):
        raise ValueError("there are no examples, and a metric needs at least one.")


def _refuse_no_pairs(log_probs: Tensor) -> None:
    if len(log_probs) < 2:
        raise ValueError(f"diversity is that of pairs of members, and there are {len(log_probs)} members: pass at least two.")
    _refuse_none(log_probs[0])
