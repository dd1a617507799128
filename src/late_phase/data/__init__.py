"""Datasets by name, as tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from late_phase.data import cifar, digits, image_folder
from late_phase.data.images import Dataset

DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits.load,
    "cifar10": partial(cifar.load, "cifar10"),
    "cifar100": partial(cifar.load, "cifar100"),
    "image_folder": image_folder.load,
}


def load(name: str, **options: Any) -> Dataset:
    """The dataset ``name``, whole; ``options`` are those of its loader, such as ``root``."""
    return DATASETS[name](**options)
