"""Temperature scaling (Guo et al., 2017): p_T ∝ p^(1/T), with the T of the least NLL on examples that it isn't measured on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from late_phase.evaluation.metrics import ece, label_log_probs, nll
from late_phase.support.seeding import generator

TEMPERATURES = (0.1, 10.0)
"""Limits of T. Without them it is 0 where all examples that it is fitted to are classified correctly, as among few it can happen,
and one error among the others would cost infinitely much."""


def scale(log_probs: Tensor, temperature: float) -> Tensor:
    """Log-probabilities at this temperature: ``[..., classes]`` -> the same, in double precision."""
    return (log_probs.double() / temperature).log_softmax(-1)


def fit_temperature(log_probs: Tensor, labels: Tensor) -> float:
    """The temperature with the least NLL, within :data:`TEMPERATURES`.

    Examples whose label has probability 0 have no part in it, as their NLL is infinite at any temperature; if all are such, T is 1.

    Args:
        log_probs: ``[examples, classes]``.
        labels: ``[examples]``.
    """
    # Importing SciPy takes longer than all else here, and other metrics need not wait for it.
    from scipy.optimize import brentq

    possible = label_log_probs(log_probs, labels).isfinite()
    if not possible.any():
        return 1.0
    log_probs = log_probs[possible].double()
    of_labels = label_log_probs(log_probs, labels[possible]).mean()
    finite = log_probs.clamp(min=torch.finfo(log_probs.dtype).min)

    def slope(log_temperature: float) -> float:
        """Derivative of the NLL by 1/T, in which it is convex."""
        probs = scale(log_probs, math.exp(log_temperature)).exp()
        return ((probs * finite).sum(-1).mean() - of_labels).item()

    low, high = map(math.log, TEMPERATURES)
    if slope(low) <= 0:
        return TEMPERATURES[0]
    if slope(high) >= 0:
        return TEMPERATURES[1]
    return math.exp(brentq(slope, low, high))


def calibration_metrics(log_probs: Tensor, labels: Tensor, seed: int = 0, bins: int = 15) -> dict[str, float]:
    """NLL and ECE with and without temperature scaling, by cross-fitting over two random halves.

    Each half's predictions are scaled by the temperature that was fitted to the other half; ``scaled_nll`` and ``scaled_ece`` are
    those of all examples together, so that they compare with ``nll`` and ``ece`` on the same examples: the ECE of half as many
    would be greater for their number alone. ``temperature`` is the mean of the two.

    Args:
        log_probs: ``[examples, classes]``, of an ensemble its mean prediction.
        labels: ``[examples]``.
        seed: of the halves, which depend on it and on the number of examples alone.

    Raises:
        ValueError: there are fewer than two examples.
    """
    if len(labels) < 2:
        raise ValueError(f"temperature scaling needs an example in either half, and there are {len(labels)} examples in all.")
    order = torch.randperm(len(labels), generator=generator(seed, "calibration"))
    first, second = order.tensor_split(2)
    scaled, temperatures = torch.empty_like(log_probs, dtype=torch.float64), []
    for fitted, measured in ((first, second), (second, first)):
        temperatures.append(fit_temperature(log_probs[fitted], labels[fitted]))
        scaled[measured] = scale(log_probs[measured], temperatures[-1])
    return {
        "temperature": sum(temperatures) / 2,
        "nll": nll(label_log_probs(log_probs, labels)),
        "ece": ece(log_probs, labels, bins),
        "scaled_nll": nll(label_log_probs(scaled, labels)),
        "scaled_ece": ece(scaled, labels, bins),
    }
