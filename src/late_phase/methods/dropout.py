"""MC-dropout (Gal & Ghahramani, 2016): models with dropout at work, where an architecture has some.

The keys are the architecture's own: ``architecture.dropout``, its probability, and ``architecture.mc_samples``. An architecture
without the latter, such as one for texts, predicts with all of its units only.
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
    """``mc_dropout``: the model ``architecture.mc_samples`` times, each time with other units left out."""

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
    """The model ``samples`` times with dropout at work, the rest in eval mode.

    Each use of the model draws new masks from torch's global generator, for each example its own.
    """
    from late_phase.running_statistics import evaluation_mode

    def models() -> Iterator[nn.Module]:
        with evaluation_mode(model):
            for layer in dropout_layers(model):
                layer.train()
            for _ in range(samples):
                yield model

    return models
