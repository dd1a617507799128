"""Datasets by name: images, corrupted images, text."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from late_phase.data import cifar, corrupted, digits, image_folder, imagenet, ood_images, svhn, text
from late_phase.data.corrupted import Corrupted
from late_phase.data.images import Dataset
from late_phase.data.text import Text

DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits.load,
    "cifar10": partial(cifar.load, "cifar10"),
    "cifar100": partial(cifar.load, "cifar100"),
    "image_folder": image_folder.load,
    "imagenet": imagenet.load,
    "svhn": svhn.load,
    "lsun_resize": partial(ood_images.load_resized, "lsun_resize"),
    "tiny_imagenet_resize": partial(ood_images.load_resized, "tiny_imagenet_resize"),
    "photo_patches": ood_images.photo_patches,
    "digits_rotated": ood_images.digits_rotated,
    "noise": ood_images.noise,
}

CORRUPTED: dict[str, Callable[..., Corrupted]] = {
    "cifar10_c": partial(corrupted.load_cifar_c, "cifar10_c"),
    "cifar100_c": partial(corrupted.load_cifar_c, "cifar100_c"),
    "digits_c": corrupted.load_digits_c,
}

OOD: dict[str, tuple[str, ...]] = {
    "digits": ("photo_patches", "digits_rotated", "noise"),
    "cifar10": ("svhn", "lsun_resize", "tiny_imagenet_resize", "cifar100"),
    "cifar100": ("svhn", "lsun_resize", "tiny_imagenet_resize", "cifar10"),
}
"""Dataset -> those whose test images are shown to its models as out-of-distribution; Section 3.2 for CIFAR-100."""

CORRUPTED_OF: dict[str, str] = {"digits": "digits_c", "cifar10": "cifar10_c", "cifar100": "cifar100_c"}
"""Dataset -> its corrupted test images."""

TEXTS: dict[str, Callable[..., Text]] = {
    "enwik8": text.load_enwik8,
    "pydocs": text.load_pydocs,
    "text_file": text.load_file,
}


def load(name: str, **options: Any) -> Dataset:
    """The dataset ``name``, whole; ``options`` are those of its loader, such as ``root``."""
    return DATASETS[name](**options)


def load_corrupted(name: str, **options: Any) -> Corrupted:
    """The corrupted test images ``name``; ``options`` are those of its loader, such as ``root``."""
    return CORRUPTED[name](**options)


def load_text(name: str, **options: Any) -> Text:
    """The text ``name``; ``options`` are those of its loader, such as ``root``."""
    return TEXTS[name](**options)


def root_options(name: str, root: str) -> dict[str, str]:
    """For the dataset ``name`` of any kind, the option of its loader that says where its files are; none if it is embedded.

    Downloaded files are in ``root``, ImageNet, which has many, in a folder of its own in it.
    """
    loader = (DATASETS | CORRUPTED | TEXTS)[name]
    if "root" not in inspect.signature(loader).parameters:
        return {}
    return {"root": str(Path(root) / "imagenet") if name == "imagenet" else root}
