"""Architectures by name. Each takes its sizes, and its own keys of the config group ``architecture``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
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

SHALLOW = 120
"""A depth at which layers are counted quickly; a multiple of the 6 that depths are counted by."""


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


def parameters(name: str, *sizes: int, **options: float) -> int:
    """Number of parameters that :func:`build` would make, found without memory and random numbers; 0 of what it refuses.

    Of a very deep network, whose layers alone take long to build, a shallower one is counted, in proportion.
    """
    depth = shallower = options.get("depth", 0)
    if depth > 2 * SHALLOW:
        shallower = SHALLOW + depth % SHALLOW
        options = options | {"depth": shallower}
    try:
        with torch.device("meta"):
            model = ARCHITECTURES[name](*sizes, **options)
    except ValueError:
        return 0
    except (RuntimeError, TypeError, OverflowError):  # torch's words for sizes that it can't count
        return 2**63
    count = sum(parameter.numel() for parameter in model.parameters())
    return count * depth // shallower if depth > shallower else count
