"""Learning-rate schedules: pure functions of the epochs completed, with fractions, as factors of the optimizer's learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

Schedule = Callable[[float], float]


def constant() -> Schedule:
    """1 at all times."""
    return lambda epoch: 1.0


def piecewise_linear(epochs: Sequence[int], factors: Sequence[float]) -> Schedule:
    """Linear between the points (epochs completed, factor), constant before the first and after the last, and within an epoch.

    ``epochs=[100, 180], factors=[1, 0.01]``: the 101st epoch still runs at full rate, the 181st is the first at a hundredth.
    """
    return lambda epoch: float(np.interp(math.floor(epoch), epochs, factors))


def multistep(epochs: Sequence[int], factors: Sequence[float], warmup: int = 0) -> Schedule:
    """1 at first, and from each of ``epochs`` (epochs completed) on the factor that goes with it.

    In the first ``warmup`` epochs the rate rises from 0, linearly with each minibatch.
    """

    def factor(epoch: float) -> float:
        step = float([1.0, *factors][np.searchsorted(epochs, epoch, side="right")])
        return step * epoch / warmup if epoch < warmup else step

    return factor


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "piecewise_linear": piecewise_linear,
    "multistep": multistep,
}


def build(name: str, **options: Sequence[float] | int) -> Schedule:
    """The schedule ``name``; ``options`` are the arguments of its function."""
    return SCHEDULES[name](**options)
