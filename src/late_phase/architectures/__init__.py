"""Architectures by name. Each takes its sizes, and its own keys of the config group ``architecture``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from late_phase.support.lazy import Lazy

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

SHALLOW = 120
"""A depth at which layers are counted quickly; a multiple of the 6 that depths are counted by."""


def build(name: str, *sizes: int, weights: str | None = None, whole: bool = False, **options: float) -> nn.Module:
    """The architecture ``name``, with fresh weights from torch's global generator.

    Args:
        sizes: channels and classes of images, or symbols of a text.
        weights: what ``weights.load`` then puts in place of the fresh ones; ``whole`` is for it, too.
    """
    model = ARCHITECTURES[name](*sizes, **options)
    if weights is not None:
        from late_phase.architectures.weights import load  # imports torchvision, which takes seconds

        load(model, name, weights, whole)
    return model


def parameters(name: str, *sizes: int, **options: float) -> int:
    """Number of parameters that :func:`build` would make, found without memory and random numbers; 0 of what it refuses.

    Of a very deep network, whose layers alone take long to build, a shallower one is counted, in proportion.
    """
    import torch  # takes seconds, and names of architectures are checked without it

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
