"""The paper's ImageNet models, from torchvision: ResNet-50, ResNet-152 and DenseNet-161."""

from __future__ import annotations

import re

from torch import nn
from torchvision.models import get_model

NAMES = ("resnet50", "resnet152", "densenet161")


def build(name: str, channels: int, classes: int) -> nn.Module:
    """Builds the model ``name``: images ``[examples, 3, height, width]`` -> logits ``[examples, classes]``.

    Raises:
        ValueError: the images don't have 3 channels.
    """
    if channels != 3:
        raise ValueError(f"architecture.name={name} takes images of 3 channels, not {channels}: choose another architecture.")
    return get_model(name, weights=None, num_classes=classes)


def current_key(key: str) -> str:
    """Returns a DenseNet key without the dot that torchvision's files still have in names such as ``norm.1`` and ``conv.2``."""
    return re.sub(r"(?<=\.)(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)", r"\1", key)
