"""MC-dropout (Gal & Ghahramani, 2016): predicts with active dropout, for architectures that have dropout.

The keys belong to the architecture: ``architecture.dropout`` is the probability, ``architecture.mc_samples`` the number of samples.
An architecture without ``mc_samples``, such as one for texts, has no MC-dropout.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from late_phase.methods.interface import ALWAYS, Method

if TYPE_CHECKING:
    from torch import nn

    from late_phase.architectures import ArchitectureConfig
    from late_phase.evaluation.predictors import Predictor


class MCDropout(Method):
    """MC-dropout. Its predictor ``mc_dropout`` runs the model ``architecture.mc_samples`` times, each with other units dropped."""

    @staticmethod
    def predictors_of(model: nn.Module, architecture: ArchitectureConfig) -> dict[str, Predictor]:
        from late_phase.evaluation.predictors import is_ensemble

        samples = getattr(architecture, "mc_samples", None)
        if samples is None or is_ensemble(model) or not dropout_layers(model):
            return {}
        return {"mc_dropout": mc_dropout(model, samples)}


ALWAYS["dropout"] = MCDropout


def dropout_layers(model: nn.Module) -> list[nn.Module]:
    from torch.nn.modules.dropout import _DropoutNd

    return [module for module in model.modules() if isinstance(module, _DropoutNd) and module.p > 0]


def mc_dropout(model: nn.Module, samples: int) -> Predictor:
    """Returns a predictor that is the model ``samples`` times, with active dropout and everything else in eval mode.

    Each call of the model draws a new mask for each example, from torch's global generator.
    """
    from late_phase.running_statistics import evaluation_mode

    def models() -> Iterator[nn.Module]:
        with evaluation_mode(model):
            for layer in dropout_layers(model):
                layer.train()
            for _ in range(samples):
                yield model

    return models
