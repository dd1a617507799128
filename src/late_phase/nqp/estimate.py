"""Means over a steady state, with error bars that account for correlation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from late_phase.nqp.problem import Array


@dataclass(frozen=True)
class Estimate:
    """Mean, its standard error, integrated autocorrelation time (in records; 1 if they are independent) and number of runs."""

    mean: float
    standard_error: float
    autocorrelation_time: float
    runs: int


def burn_in(slowest: float, remaining: float) -> int:
    """Returns the steps until the loss of the slowest mode, the square of its error, has shrunk to the share ``remaining``.

    Args:
        slowest: share by which the mode's error shrinks at each step, between 0 and 1: η times the smallest eigenvalue.
    """
    return max(0, math.ceil(math.log(remaining) / (2 * math.log1p(-slowest))))


def steady_state(series: Array) -> Estimate:
    """Estimates the mean of records ``[runs, records]`` of independent runs, all taken after burn-in.

    There are two standard errors: from the autocorrelation within the runs, and from the scatter of the runs' means. The second
    includes changes that are slower than a run. The first helps when there are few runs. The larger one counts.
    """
    runs = len(series)
    time = autocorrelation_time(series)
    within = series.std() * math.sqrt(time / series.size)
    between = series.mean(1).std(ddof=1) / math.sqrt(runs) if runs > 1 else 0.0
    return Estimate(float(series.mean()), float(max(within, between)), time, runs)


def autocorrelation_time(series: Array) -> float:
    """Returns 1 + 2 Σ_t ρ(t), with autocovariances about the common mean, pooled over ``[runs, records]``.

    The sum ends at the first t that is at least five times the sum (Sokal's window). Later terms have more noise than correlation.
    """
    records = series.shape[1]
    spectrum = np.fft.rfft(series - series.mean(), 2 * records, axis=1)  # padded to twice the length, so not circular
    covariance = np.fft.irfft(abs(spectrum) ** 2, axis=1).mean(0)[:records] / (records - np.arange(records))
    if covariance[0] == 0:
        return 1.0
    times = 2 * np.cumsum(covariance / covariance[0]) - 1
    window = np.flatnonzero(np.arange(records) >= 5 * times)
    return max(1.0, float(times[window[0] if window.size else -1]))
