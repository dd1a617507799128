"""Lookahead (Zhang et al., 2019): slow weights follow the trained weights, which return to them every few steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from omegaconf import MISSING

from late_phase.config.choices import register
from late_phase.config.refusals import at_least
from late_phase.config.training import TrainConfig
from late_phase.methods.averaging import AverageConfig, AverageMethod, MovingAverage
from late_phase.methods.interface import Trained
from late_phase.support.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from late_phase.method import LatePhase


@dataclass
class LookaheadConfig(AverageConfig):
    steps: int = MISSING
    alpha: float = MISSING

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        at_least("averaging.steps", self.steps, 1)
        if not 0 < self.alpha <= 1:
            raise UserError(f"averaging.alpha={self.alpha} is out of range: choose from above 0 to 1.")


class SlowWeights(MovingAverage):
    """Slow weights: slow <- slow + α (fast - slow). The first weights are the slow weights themselves.

    Args:
        alpha: α.

    Attributes:
        steps: steps of the fast weights since the first update.
        phi: φ before it gets members, from the end of epoch T0 until they are spawned.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.steps = 0
        self.phi: dict[str, Tensor] = {}

    def move(self, mean: list[Tensor], weights: list[Tensor]) -> None:
        import torch

        torch._foreach_lerp_(mean, weights, self.alpha)


class LookaheadMethod(AverageMethod):
    """Lookahead. Its predictors use the slow weights: ``lookahead`` is the single model, ``lookahead_ensemble`` the members.

    A step is a minibatch before T0 and an iteration afterwards, so that each weight has moved once. When the weights return, the
    optimizer's state stays as it is. At T0 the slow weights of each member get its noise.
    """

    name: ClassVar[str | None] = "lookahead"

    def empty(self) -> SlowWeights:
        return SlowWeights(self.config.averaging.alpha)

    def before_epoch(self, trained: Trained, epoch: int) -> None:
        slow = self.average
        if slow.count == 0:
            self.update(trained, epoch)
        elif slow.phi:
            weights = trained.late.weights()
            for name, value in slow.phi.items():
                slow.mean[name] += weights[name] - value
            slow.phi = {}

    def after_epoch(self, trained: Trained, epoch: int) -> None:
        if self.average.count > 0 and epoch + 1 == self.config.late_phase.reached(self.config.epochs):
            weights = trained.late.weights()
            self.average.phi = {name: weights[name].clone() for name in trained.late.phi}

    def after_step(self, trained: Trained, epoch: int) -> None:
        slow = self.average
        if slow.count == 0 or trained.late.entered not in (None, 0):
            return
        slow.steps += 1
        if slow.steps % self.config.averaging.steps == 0:
            self.update(trained, epoch)
            set_weights(trained.late, slow.mean)


def set_weights(late: LatePhase, weights: Mapping[str, Tensor]) -> None:
    """Sets θ and Φ to ``weights``, as ``LatePhase.weights()`` returns them."""
    from late_phase.weights import load

    phi = {name: weights[name] for name in late.phi}
    load(late.model, {name: value for name, value in weights.items() if name not in phi})
    if late.spawned:
        for k in range(late.K):
            with late.member(k) as model:
                load(model, {name: value[k] for name, value in phi.items()})
    else:
        load(late.model, {name: value[0] for name, value in phi.items()})


register("averaging", "lookahead", LookaheadConfig, LookaheadMethod)
