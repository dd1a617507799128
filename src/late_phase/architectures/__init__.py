"""Architectures by name. Each takes ``channels`` and ``classes``, and its own keys of the config group ``architecture``."""

from __future__ import annotations

from torch import nn

from late_phase.architectures.lenet import LeNet
from late_phase.architectures.wide_resnet import WideResNet

ARCHITECTURES: dict[str, type[nn.Module]] = {"lenet": LeNet, "wrn": WideResNet}


def build(name: str, channels: int, classes: int, **options: int) -> nn.Module:
    """The architecture ``name`` for images of ``channels`` channels, with fresh weights from torch's global generator."""
    return ARCHITECTURES[name](channels, classes, **options)
