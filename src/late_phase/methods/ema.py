"""The exponential moving average of the weights over steps (Polyak averaging with exponential weights)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from omegaconf import MISSING

from late_phase.config.choices import register
from late_phase.config.training import TrainConfig
from late_phase.methods.averaging import AverageConfig, AverageMethod, MovingAverage
from late_phase.methods.interface import Trained
from late_phase.support.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class EMAConfig(AverageConfig):
    decay: float = MISSING
    warmup: bool = MISSING

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        if not 0 <= self.decay < 1:
            raise UserError(f"averaging.decay={self.decay} is out of range: choose from 0 to below 1, such as 0.999.")


class EMA(MovingAverage):
    """The exponential moving average: θ_EMA <- d θ_EMA + (1 - d) θ. The first weights are the average themselves.

    Args:
        decay: d.
        warmup: use min(d, (1 + t) / (10 + t)) after t updates, so that the first weights are soon forgotten.
    """

    def __init__(self, decay: float, warmup: bool) -> None:
        super().__init__()
        self.decay = decay
        self.warmup = warmup

    def move(self, mean: list[Tensor], weights: list[Tensor]) -> None:
        from torch.optim.swa_utils import get_ema_multi_avg_fn

        decay = min(self.decay, (1 + self.count) / (10 + self.count)) if self.warmup else self.decay
        get_ema_multi_avg_fn(decay)(mean, weights, self.count)


class EMAMethod(AverageMethod):
    """EMA. Its predictors use weights averaged over minibatches: ``ema`` is the single model, ``ema_ensemble`` the members."""

    name: ClassVar[str | None] = "ema"

    def empty(self) -> EMA:
        return EMA(self.config.averaging.decay, self.config.averaging.warmup)

    def after_step(self, trained: Trained, epoch: int) -> None:
        self.update(trained, epoch)


register("averaging", "ema", EMAConfig, EMAMethod)
