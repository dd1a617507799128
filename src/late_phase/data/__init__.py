"""Datasets by name: images, corrupted images, text."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from late_phase.support.lazy import Lazy

if TYPE_CHECKING:
    from late_phase.data.corrupted import Corrupted
    from late_phase.data.images import Dataset
    from late_phase.data.text import Text

DATASETS = {
    "digits": Lazy("late_phase.data.digits.load"),
    "cifar10": Lazy("late_phase.data.cifar.load", "cifar10"),
    "cifar100": Lazy("late_phase.data.cifar.load", "cifar100"),
    "image_folder": Lazy("late_phase.data.image_folder.load"),
    "imagenet": Lazy("late_phase.data.imagenet.load"),
    "svhn": Lazy("late_phase.data.svhn.load"),
    "lsun_resize": Lazy("late_phase.data.ood_images.load_resized", "lsun_resize"),
    "tiny_imagenet_resize": Lazy("late_phase.data.ood_images.load_resized", "tiny_imagenet_resize"),
    "photo_patches": Lazy("late_phase.data.ood_images.photo_patches"),
    "digits_rotated": Lazy("late_phase.data.ood_images.digits_rotated"),
    "noise": Lazy("late_phase.data.ood_images.noise"),
}

CORRUPTED = {
    "cifar10_c": Lazy("late_phase.data.corrupted.load_cifar_c", "cifar10_c"),
    "cifar100_c": Lazy("late_phase.data.corrupted.load_cifar_c", "cifar100_c"),
    "digits_c": Lazy("late_phase.data.corrupted.load_digits_c"),
}

OOD: dict[str, tuple[str, ...]] = {
    "digits": ("photo_patches", "digits_rotated", "noise"),
    "cifar10": ("svhn", "lsun_resize", "tiny_imagenet_resize", "cifar100"),
    "cifar100": ("svhn", "lsun_resize", "tiny_imagenet_resize", "cifar10"),
}
"""Dataset -> those whose test images are shown to its models as out-of-distribution; Section 3.2 for CIFAR-100."""

CORRUPTED_OF: dict[str, str] = {"digits": "digits_c", "cifar10": "cifar10_c", "cifar100": "cifar100_c"}
"""Dataset -> its corrupted test images."""

TEXTS = {
    "enwik8": Lazy("late_phase.data.text.load_enwik8"),
    "pydocs": Lazy("late_phase.data.text.load_pydocs"),
    "text_file": Lazy("late_phase.data.text.load_file"),
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
    if "root" not in inspect.signature(loader.resolve()).parameters:
        return {}
    return {"root": str(Path(root) / "imagenet") if name == "imagenet" else root}
