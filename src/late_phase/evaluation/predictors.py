"""What predicts: one model, or several in turn. Every method that integrates over models comes down to this."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor, nn

from late_phase.averaging.swag import SWAG
from late_phase.layers.batch_ensemble import BatchEnsemble
from late_phase.running_statistics import evaluation_mode
from late_phase.support.seeding import generator
from late_phase.weights import load

Predictor = Callable[[], Iterator[nn.Module]]
"""Yields the members of an ensemble in turn, each a model in the mode that it predicts in, to be used before the next is taken."""


def single(model: nn.Module) -> Predictor:
    """The model itself, in eval mode."""

    def models() -> Iterator[nn.Module]:
        with evaluation_mode(model):
            yield model

    return models


def predictor_of(model: nn.Module) -> Predictor:
    """The model's own way to predict: that of its members if it is a BatchEnsemble, or else the model itself."""
    return batch_ensemble(model) if isinstance(model, BatchEnsemble) else single(model)


def members(model: nn.Module, values: Mapping[str, Tensor]) -> Predictor:
    """A copy of the model with each member's values in turn: name of a parameter or buffer -> ``[members, ...]``."""
    model = copy.deepcopy(model).eval()

    def models() -> Iterator[nn.Module]:
        for k in range(len(next(iter(values.values())))):
            yield load(model, {name: stacked[k] for name, stacked in values.items()})

    return models


def mc_dropout(model: nn.Module, samples: int) -> Predictor:
    """The model ``samples`` times with dropout at work, the rest in eval mode (Gal & Ghahramani, 2016).

    Each use of the model draws new masks from torch's global generator, for each example its own.
    """

    def models() -> Iterator[nn.Module]:
        with evaluation_mode(model):
            for layer in dropout_layers(model):
                layer.train()
            for _ in range(samples):
                yield model

    return models


def batch_ensemble(model: BatchEnsemble) -> Predictor:
    """The members of a BatchEnsemble, each as a plain model."""

    def models() -> Iterator[nn.Module]:
        for k in range(model.K):
            yield model.plain(k).eval()

    return models


def several(predictors: Sequence[Predictor]) -> Predictor:
    """The members of several ensembles, one ensemble after the other: a deep ensemble, where they are finished runs."""

    def models() -> Iterator[nn.Module]:
        for predictor in predictors:
            yield from predictor()

    return models


def swag_weights(posterior: SWAG, samples: int, scale: float, seed: int) -> Iterator[dict[str, Tensor]]:
    """The samples' weights; always the same ones."""
    for sample in range(samples):
        yield posterior.sample(scale, generator(seed, "swag", sample))


def swag(
    model: nn.Module, weights: Callable[[], Iterator[dict[str, Tensor]]], statistics: Sequence[dict[str, Tensor]]
) -> Predictor:
    """A copy of the model with each sample's weights in turn and the running statistics that were estimated for it.

    Args:
        weights: starts anew the iteration over the samples' weights: those of all at once may not fit into memory.
        statistics: for each sample name of a running statistic -> value.
    """
    model = copy.deepcopy(model).eval()

    def models() -> Iterator[nn.Module]:
        for sample, own in zip(weights(), statistics, strict=True):
            yield load(model, sample | own)

    return models


def dropout_layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0]
