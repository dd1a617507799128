"""Architectures by name. Each takes its sizes, and its own keys of the config group ``architecture``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from late_phase.architectures import imagenet
from late_phase.architectures.lenet import LeNet
from late_phase.architectures.lstm import LSTM
from late_phase.architectures.pyramidnet import PyramidNet
from late_phase.architectures.weights import load
from late_phase.architectures.wide_resnet import WideResNet

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "lenet": LeNet,
    "wrn": WideResNet,
    "pyramidnet": PyramidNet,
    **{name: partial(imagenet.build, name) for name in imagenet.NAMES},
    "lstm": LSTM,
}


def build(name: str, *sizes: int, weights: str | None = None, **options: float) -> nn.Module:
    """The architecture ``name``, with fresh weights from torch's global generator.

    Args:
        sizes: channels and classes of images, or symbols of a text.
        weights: what ``weights.load`` then puts in place of the fresh ones.
    """
    model = ARCHITECTURES[name](*sizes, **options)
    if weights is not None:
        load(model, name, weights)
    return model
