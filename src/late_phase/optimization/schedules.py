"""Learning-rate schedules: functions from the completed epochs, with fractions, to a factor of the optimizer's learning rate."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from omegaconf import MISSING

from late_phase.config.choices import register
from late_phase.config.refusals import at_least
from late_phase.config.training import EPOCHS, Chosen, TrainConfig, in_epochs
from late_phase.support.errors import UserError

Schedule = Callable[[float], float]


@dataclass
class BreakpointsConfig(Chosen):
    epochs: list[int] = field(default=MISSING, metadata=EPOCHS)
    factors: list[float] = MISSING

    def check(self, config: TrainConfig) -> None:
        epochs, factors = self.epochs, self.factors
        rising = sorted(set(epochs)) == list(epochs)
        if len(epochs) != len(factors) or not epochs or not rising or not all(0 <= f < float("inf") for f in factors):
            raise UserError(
                f"schedule.epochs={epochs} and schedule.factors={factors} don't make a schedule: "
                "give as many factors as epochs, rising epochs, and no factor below 0."
            )


@dataclass
class MultistepConfig(BreakpointsConfig):
    warmup: int = in_epochs(0)

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        at_least("schedule.warmup", self.warmup, 0)


@dataclass
class CosineConfig(Chosen):
    epochs: int = in_epochs()
    warmup: int = in_epochs(0)
    last: float = 0.0

    def check(self, config: TrainConfig) -> None:
        at_least("schedule.warmup", self.warmup, 0)
        at_least("schedule.last", self.last, 0)
        if self.epochs <= self.warmup:
            raise UserError(
                f"schedule.epochs={self.epochs} leaves no epoch after schedule.warmup={self.warmup}: choose a shorter warm-up."
            )


def constant() -> Schedule:
    """Returns the schedule whose factor is always 1."""
    return lambda epoch: 1.0


def piecewise_linear(epochs: Sequence[int], factors: Sequence[float]) -> Schedule:
    """Returns a schedule that is linear between the points (completed epochs, factor).

    It is constant before the first point, after the last point, and within each epoch. Example: with ``epochs=[100, 180]`` and
    ``factors=[1, 0.01]`` the 101st epoch still has the full rate, and the 181st is the first with a hundredth of it.
    """
    import numpy as np  # imported here, because a command line is checked without it

    return lambda epoch: float(np.interp(math.floor(epoch), epochs, factors))


def multistep(epochs: Sequence[int], factors: Sequence[float], warmup: int = 0) -> Schedule:
    """Returns a schedule that starts with 1 and takes the next of ``factors`` at each of ``epochs`` (completed epochs).

    In the first ``warmup`` epochs the rate also rises from 0, linearly with each minibatch.
    """

    def factor(epoch: float) -> float:
        step = float([1.0, *factors][bisect_right(epochs, epoch)])
        return step * epoch / warmup if epoch < warmup else step

    return factor


def cosine(epochs: int, warmup: int = 0, last: float = 0.0) -> Schedule:
    """Returns a schedule that falls from 1 to ``last`` along half a cosine (Loshchilov & Hutter, 2017), with each minibatch.

    It rises linearly from 0 in the first ``warmup`` epochs, and is ``last`` from the end of the epoch ``epochs`` on.
    """

    def factor(epoch: float) -> float:
        if epoch < warmup:
            return epoch / warmup
        done = min(1.0, (epoch - warmup) / (epochs - warmup))
        return last + (1 - last) * (1 + math.cos(math.pi * done)) / 2

    return factor


register("schedule", "constant", Chosen, constant)
register("schedule", "piecewise_linear", BreakpointsConfig, piecewise_linear)
register("schedule", "multistep", MultistepConfig, multistep)
register("schedule", "cosine", CosineConfig, cosine)
