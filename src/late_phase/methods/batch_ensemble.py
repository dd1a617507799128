"""BatchEnsemble (Wen et al., 2020): K members within one model from the beginning, see ``late_phase.layers.batch_ensemble``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import MISSING

from late_phase.config.check import copies
from late_phase.config.choices import CHOICES, register
from late_phase.config.refusals import above_0, at_least, one_of
from late_phase.config.training import Chosen, TrainConfig
from late_phase.methods.interface import Method
from late_phase.support.errors import UserError
from late_phase.support.memory import NUMBER, check_memory

if TYPE_CHECKING:
    from torch import nn

    from late_phase.evaluation.predictors import Predictor
    from late_phase.methods.exported import Weights
    from late_phase.selection import Selection


@dataclass
class BatchEnsembleConfig(Chosen):
    K: int = MISSING
    init: str = MISSING
    lr_factor: float = MISSING
    minibatches: str = "shared"
    average: bool = False

    def check(self, config: TrainConfig) -> None:
        at_least("ensemble.K", self.K, 1)
        one_of("ensemble.init", self.init, ("normal", "sign", "first"))
        one_of("ensemble.minibatches", self.minibatches, ("shared", "own"))
        if self.minibatches == "own" and config.batch_size < self.K:
            raise UserError(
                f"ensemble.K={self.K} members can't share out batch_size={config.batch_size}: choose a larger batch_size."
            )
        above_0("ensemble.lr_factor", self.lr_factor)
        if config.late_phase.has_weights or not config.averaging.of_an_ensemble:
            averagings = " or ".join(name for name, choice in CHOICES["averaging"].items() if choice.config.of_an_ensemble)
            raise UserError(
                f"ensemble=batch_ensemble has members of its own: choose late_phase=none and averaging={averagings}, not "
                f"late_phase={config.late_phase.name} and averaging={config.averaging.name}."
            )


class BatchEnsembleMethod(Method):
    """BatchEnsemble. Its predictor is ``ensemble``, the K members as plain models.

    With ``ensemble.average`` it also has ``single``, the average of the members (Eq. 1).
    """

    def multiples(self) -> dict[str, int]:
        settings = self.config.ensemble
        return {"ensemble.K": settings.K if settings.minibatches == "shared" else 1}

    def wrap(self, model: nn.Module) -> nn.Module:
        from late_phase.layers.batch_ensemble import BatchEnsemble
        from late_phase.support.seeding import generator

        settings = self.config.ensemble
        check_fast_weights(self.config, model)
        source = generator(self.config.seed, "ensemble")
        return BatchEnsemble(model, settings.K, settings.init, source, own_minibatches=settings.minibatches == "own")

    def parameter_options(self) -> list[tuple[Selection, dict[str, float]]]:
        from late_phase.layers.batch_ensemble import fast_weights

        lr = self.config.optimizer.lr * self.config.ensemble.lr_factor
        return [(fast_weights(), {"lr": lr, "weight_decay": 0.0})]

    def predictors_with(self, weights: Weights) -> dict[str, Predictor]:
        from late_phase.evaluation.predictors import Single

        return {"single": Single(weights.model.average())} if self.config.ensemble.average else {}


def check_fast_weights(config: TrainConfig, model: nn.Module) -> None:
    """Refuses an ensemble within the plain ``model`` if its fast weights and biases don't fit into the memory.

    Raises:
        UserError: they don't fit.
    """
    from torch import nn

    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    numbers = sum(sum(layer.weight.shape[:2]) + (0 if layer.bias is None else len(layer.bias)) for layer in layers)
    needed = NUMBER * copies(config) * config.ensemble.K * numbers
    check_memory(f"ensemble.K={config.ensemble.K}", needed, "choose a smaller one.")


register("ensemble", "none", Chosen, Method)
register("ensemble", "batch_ensemble", BatchEnsembleConfig, BatchEnsembleMethod)
