"""Metrics of predictive distributions, from log-probabilities.

All raise a ValueError if there are no examples, because a mean over none is undefined.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def accuracy(log_probs: Tensor, labels: Tensor) -> float:
    """Returns the share of examples whose likeliest class is the label, 0 to 1.

    Args:
        log_probs: ``[examples, classes]``.
        labels: ``[examples]``.
    """
    _refuse_none(labels)
    return (log_probs.argmax(-1) == labels).double().mean().item()


def label_log_probs(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Returns the labels' log-probabilities: ``[..., examples, classes]`` and ``[examples]`` -> ``[..., examples]``."""
    return log_probs.gather(-1, labels.expand(log_probs.shape[:-1])[..., None])[..., 0]


def nll(label_log_probs: Tensor) -> float:
    """Returns the mean negative log-likelihood in nats per example, from the labels' log-probabilities ``[examples]``."""
    _refuse_none(label_log_probs)
    return -label_log_probs.double().mean().item()


def ece(log_probs: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Returns the expected calibration error (Guo et al., 2017), 0 to 1.

    It is the mean over examples of |accuracy - confidence| in bins of equal width. A bin includes its upper edge but not its lower
    one.

    Args:
        log_probs: ``[examples, classes]``.
        labels: ``[examples]``.
    """
    _refuse_none(labels)
    confidence, predicted = log_probs.double().exp().max(-1)
    gap = (predicted == labels).double() - confidence
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    sums = torch.zeros(bins, dtype=torch.float64).index_add_(0, torch.bucketize(confidence, edges), gap)
    return (sums.abs().sum() / len(labels)).item()


def classification_metrics(part: str, log_probs: Tensor, labels: Tensor) -> dict[str, float]:
    """Returns ``<part>_accuracy``, ``<part>_nll`` in nats and ``<part>_ece``.

    Args:
        log_probs: ``[examples, classes]``.
        labels: ``[examples]``.
    """
    return {
        f"{part}_accuracy": accuracy(log_probs, labels),
        f"{part}_nll": nll(label_log_probs(log_probs, labels)),
        f"{part}_ece": ece(log_probs, labels),
    }


def brier(log_probs: Tensor, labels: Tensor) -> float:
    """Returns the Brier score, 0 to 2.

    It is the squared distance of ``[examples, classes]`` from the label, summed over classes, mean over examples.
    """
    _refuse_none(labels)
    probs = log_probs.double().exp()
    return (probs - F.one_hot(labels, probs.shape[-1])).square().sum(-1).mean().item()


def entropy(log_probs: Tensor) -> Tensor:
    """Returns the predictive entropy in nats, in double precision: ``[..., classes]`` -> ``[...]``. Where p = 0, it adds 0."""
    log_probs = _normalized(log_probs)
    return (log_probs.exp() * -log_probs.clamp(min=torch.finfo(log_probs.dtype).min)).sum(-1)


def disagreement(log_probs: Tensor) -> float:
    """Returns the share of examples that two members predict differently, 0 to 1: mean over pairs of members.

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
    """Returns KL(p_i || p_j) in nats: mean over examples and ordered pairs of members i != j; infinite where p_j = 0 < p_i.

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
    """Returns log-probabilities in double precision whose probabilities sum to 1.

    In single precision, the log of a probability near 1 has lost its digits. The small probabilities beside it have kept theirs and
    restore it.
    """
    return log_probs.double().log_softmax(-1)


def _ordered_pairs(members: Tensor) -> int:
    return len(members) * (len(members) - 1)


def _refuse_none(examples: Tensor) -> None:
    if not len(examples):
        raise ValueError("there are no examples: a metric needs at least one.")


def _refuse_no_pairs(log_probs: Tensor) -> None:
    if len(log_probs) < 2:
        raise ValueError(f"diversity compares members, and the number of members is {len(log_probs)}: pass at least two.")
    _refuse_none(log_probs[0])
