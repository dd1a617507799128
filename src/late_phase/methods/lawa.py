"""Latest weight averaging (LAWA; Kaddour, 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from omegaconf import MISSING

from late_phase.config.check import copies
from late_phase.config.choices import register
from late_phase.config.refusals import at_least
from late_phase.config.training import TrainConfig
from late_phase.methods.averaging import Average, AverageConfig, AverageMethod
from late_phase.methods.interface import Trained
from late_phase.support.memory import NUMBER, check_memory

if TYPE_CHECKING:
    from torch import Tensor

    from late_phase.method import LatePhase


@dataclass
class LAWAConfig(AverageConfig):
    models: int = MISSING

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        at_least("averaging.models", self.models, 1)


class LAWA(Average):
    """The mean of the latest weights that it was given.

    Args:
        models: how many weights are averaged, the paper's k. As long as there are fewer, all are averaged.
    """

    def __init__(self, models: int) -> None:
        super().__init__()
        self.models = models
        self.latest: list[dict[str, Tensor]] = []

    def update(self, weights: Mapping[str, Tensor]) -> None:
        import torch

        self.latest = [*self.latest, {name: value.clone() for name, value in weights.items()}][-self.models :]
        self.mean = {name: torch.stack([own[name] for own in self.latest]).mean(0) for name in weights}
        self.count += 1


class LAWAMethod(AverageMethod):
    """LAWA. Its predictors use the mean of the latest weights: ``lawa`` is the single model, ``lawa_ensemble`` the members."""

    name: ClassVar[str | None] = "lawa"

    def empty(self) -> LAWA:
        return LAWA(self.config.averaging.models)

    def check(self, late: LatePhase, minibatches: int) -> None:
        """Checks that the memory is large enough for the latest weights at the end of training."""
        settings = self.config.averaging
        kept = min(settings.models, self.config.epochs - settings.start) * sum(value.numel() for value in late.weights().values())
        needed = NUMBER * (copies(self.config) * sum(value.numel() for value in late.model.parameters()) + kept)
        check_memory(f"averaging.models={settings.models}", needed, "choose a smaller number.")

    def after_epoch(self, trained: Trained, epoch: int) -> None:
        self.update(trained, epoch)


register("averaging", "lawa", LAWAConfig, LAWAMethod)
