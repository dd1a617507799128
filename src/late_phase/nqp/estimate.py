"""Means over a steady state, with honest error bars."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from late_phase.nqp.problem import Array


@dataclass(frozen=True)
class Estimate:
    """Mean, its standard error, integrated autocorrelation time (in records, 1 for independent ones) and number of runs."""

    mean: float
    standard_error: float
    autocorrelation_time: float
    runs: int


def burn_in(slowest: float, remaining: float) -> int:
    """Steps until the square of the slowest mode's error, and so its loss, has shrunk to ``remaining`` of what it was.

    Args:
        slowest: what the mode's error shrinks by at each step, between 0 and 1: η times the smallest eigenvalue.
    """
    return max(0, math.ceil(math.log(remaining) / (2 * math.log1p(-slowest))))


def steady_state(series: Array) -> Estimate:
    """Mean of records ``[runs, records]`` of independent runs, all of them after burn-in.

    There are two standard errors: by the autocorrelation within the runs, and by the scatter of the runs' means. The second knows
    what is slower than a run, the first is there for few runs. The larger one counts.
    """
    runs = len(series)
    time = autocorrelation_time(series)
    within = series.std() * math.sqrt(time / series.size)
    between = series.mean(1).std(ddof=1) / math.sqrt(runs) if runs > 1 else 0.0
    return Estimate(float(series.mean()), float(max(within, between)), time, runs)


def autocorrelation_time(series: Array) -> float:
    """1 + 2 Σ_t ρ(t), of autocovariances pooled over ``[runs, records]``, about the mean of all.

    The sum ends at the first t of at least five times its value (Sokal's window): beyond it there is more noise than correlation.
    """
    records = series.shape[1]
    spectrum = np.fft.rfft(series - series.mean(), 2 * records, axis=1)  # twice as long: not circular
    covariance = np.fft.irfft(abs(spectrum) ** 2, axis=1).mean(0)[:records] / (records - np.arange(records))
    if covariance[0] == 0:
        return 1.0
    times = 2 * np.cumsum(covariance / covariance[0]) - 1
    window = np.flatnonzero(np.arange(records) >= 5 * times)
    return max(1.0, float(times[window[0] if window.size else -1]))
