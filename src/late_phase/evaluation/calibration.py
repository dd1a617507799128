"""Temperature scaling (Guo et al., 2017): p_T ∝ p^(1/T). T minimizes the NLL on examples that it isn't measured on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from late_phase.evaluation.metrics import ece, label_log_probs, nll
from late_phase.support.seeding import generator

TEMPERATURES = (0.1, 10.0)
"""Limits of T.

Without them, T would be 0 if all examples that it is fitted to are classified correctly, which can happen with few examples. One
error among the other examples would then cost infinitely much.
"""


def scale(log_probs: Tensor, temperature: float) -> Tensor:
    """Scales log-probabilities ``[..., classes]`` to this temperature; the result has the same shape, in double precision."""
    return (log_probs.double() / temperature).log_softmax(-1)


def fit_temperature(log_probs: Tensor, labels: Tensor) -> float:
    """Returns the temperature with the least NLL, within :data:`TEMPERATURES`.

    Examples whose label has probability 0 are ignored, because their NLL is infinite at any temperature. If all are such, T is 1.

    Args:
        log_probs: ``[examples, classes]``.
        labels: ``[examples]``.
    """
    # SciPy is slow to import, and the other metrics don't need it.
    from scipy.optimize import brentq

    possible = label_log_probs(log_probs, labels).isfinite()
    if not possible.any():
        return 1.0
    log_probs = log_probs[possible].double()
    of_labels = label_log_probs(log_probs, labels[possible]).mean()
    finite = log_probs.clamp(min=torch.finfo(log_probs.dtype).min)

    def slope(log_temperature: float) -> float:
        """Returns the derivative of the NLL by 1/T, in which it is convex."""
        probs = scale(log_probs, math.exp(log_temperature)).exp()
        return ((probs * finite).sum(-1).mean() - of_labels).item()

    low, high = map(math.log, TEMPERATURES)
    if slope(low) <= 0:
        return TEMPERATURES[0]
    if slope(high) >= 0:
        return TEMPERATURES[1]
    return math.exp(brentq(slope, low, high))


def calibration_metrics(log_probs: Tensor, labels: Tensor, seed: int = 0, bins: int = 15) -> dict[str, float]:
    """Returns NLL and ECE with and without temperature scaling, by cross-fitting over two random halves.

    Each half's predictions are scaled by the temperature that was fitted to the other half. ``scaled_nll`` and ``scaled_ece`` are
    over all examples together, so they compare with ``nll`` and ``ece`` on the same examples. The ECE of half as many examples
    would be greater because of their number alone. ``temperature`` is the mean of the two temperatures.

    Args:
        log_probs: ``[examples, classes]``; for an ensemble, its mean prediction.
        labels: ``[examples]``.
        seed: seeds the split into halves, which depends only on it and on the number of examples.

    Raises:
        ValueError: there are fewer than two examples.
    """
    if len(labels) < 2:
        raise ValueError(f"temperature scaling needs at least two examples, but got {len(labels)}: evaluate on more.")
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
