"""Architectures by name. Each takes its sizes, and its own keys of the config group ``architecture``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from late_phase.lazy import Lazy

if TYPE_CHECKING:
    from torch import nn

ARCHITECTURES = {
    "lenet": Lazy("late_phase.architectures.lenet.LeNet"),
    "wrn": Lazy("late_phase.architectures.wide_resnet.WideResNet"),
    "pyramidnet": Lazy("late_phase.architectures.pyramidnet.PyramidNet"),
    "resnet50": Lazy("late_phase.architectures.imagenet.build", "resnet50"),
    "resnet152": Lazy("late_phase.architectures.imagenet.build", "resnet152"),
    "densenet161": Lazy("late_phase.architectures.imagenet.build", "densenet161"),
    "lstm": Lazy("late_phase.architectures.lstm.LSTM"),
}


def build(name: str, *sizes: int, weights: str | None = None, **options: float) -> nn.Module:
    """The architecture ``name``, with fresh weights from torch's global generator.

    Args:
        sizes: channels and classes of images, or symbols of a text.
        weights: what ``weights.load`` then puts in place of the fresh ones.
    """
    model = ARCHITECTURES[name](*sizes, **options)
    if weights is not None:
        from late_phase.architectures.weights import load  # imports torchvision, which takes seconds

        load(model, name, weights)
    return model
