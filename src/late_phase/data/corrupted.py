"""Test images with noise, blur and other corruptions, each in five severities (Hendrycks & Dietterich, 2019)."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from late_phase.data import digits
from late_phase.data.archives import fetch_extracted
from late_phase.data.download import Download
from late_phase.data.images import Images
from late_phase.support.errors import UserError, first_line
from late_phase.support.seeding import generator

SEVERITIES = (1, 2, 3, 4, 5)
PAPERS_CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow", "frost"),
    *("fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
"""The corruptions that count for the mean corruption error. The archives have four more."""
EXTRA_CORRUPTIONS = ("gaussian_blur", "saturate", "spatter", "speckle_noise")


@dataclass(frozen=True)
class Corrupted:
    """The same test images, in the same order, for each of several corruptions and severities.

    Attributes:
        make: reads or makes the images of one corruption and severity.
        version: changes when the images change, as far as can be told without reading them.
    """

    name: str
    classes: int
    corruptions: tuple[str, ...]
    make: Callable[[str, int], Images]
    version: str
    severities: tuple[int, ...] = SEVERITIES

    def in_words(self) -> str:
        """Returns the amount of data in words."""
        images = len(self.images(self.corruptions[0], self.severities[0]))
        return f"{len(self.corruptions)} corruptions, {len(self.severities)} severities, {images:,} images of each"

    def images(self, corruption: str, severity: int) -> Images:
        """Returns the images of one corruption and severity, without loading the others.

        Raises:
            UserError: the corruption or severity doesn't exist, or its file is damaged.
        """
        if corruption not in self.corruptions:
            raise UserError(f"corruption={corruption} is unknown to {self.name}: choose one of {', '.join(self.corruptions)}.")
        if severity not in self.severities:
            raise UserError(f"severity={severity} is out of range: choose from {self.severities[0]} to {self.severities[-1]}.")
        return self.make(corruption, severity)


# CIFAR-10-C and CIFAR-100-C.


@dataclass(frozen=True)
class Source:
    """The archive of a corrupted dataset, the folder in the archive, and the number of classes."""

    archive: Download
    folder: str
    classes: int


SOURCES = {
    "cifar10_c": Source(
        Download(
            "CIFAR-10-C.tar",
            (
                "https://zenodo.org/records/2535967/files/CIFAR-10-C.tar?download=1",
                "https://huggingface.co/datasets/torch-uncertainty/CIFAR-C/resolve/main/CIFAR-10-C.tar",
            ),
            2_918_471_680,
            "md5:56bf5dcef84df0e2308c6dcbcbbd8499",
        ),
        "CIFAR-10-C",
        10,
    ),
    "cifar100_c": Source(
        Download(
            "CIFAR-100-C.tar",
            (
                "https://zenodo.org/records/3555552/files/CIFAR-100-C.tar?download=1",
                "https://zenodo.org/api/records/3555552/files/CIFAR-100-C.tar/content",
            ),
            2_918_473_216,
            "md5:11f0ed0f1191edbf9fa23466ae6021d3",
        ),
        "CIFAR-100-C",
        100,
    ),
}


def load_cifar_c(name: str, root: str, corruptions: Sequence[str] = PAPERS_CORRUPTIONS) -> Corrupted:
    """Loads the corrupted test images of CIFAR: 10,000 for each corruption and severity.

    The files are in the folder ``root``, or are downloaded to it. They are mapped into memory, so only the requested images are
    read. The number of images is a fifth of the rows in a file.

    Raises:
        UserError: a corruption is unknown, the files are absent from ``root`` and can't be downloaded, or a file is missing or
            damaged.
    """
    source = SOURCES[name]
    known = PAPERS_CORRUPTIONS + EXTRA_CORRUPTIONS
    if unknown := [corruption for corruption in corruptions if corruption not in known]:
        raise UserError(f"corruption={unknown[0]} is unknown to {name}: choose some of {', '.join(known)}.")
    folder = fetch_extracted(source.archive, Path(root), source.folder)
    labels = _map(folder / "labels.npy")
    if labels.ndim != 1 or not len(labels) or len(labels) % len(SEVERITIES) or labels.max() >= source.classes:
        raise UserError(f"{folder / 'labels.npy'} doesn't hold five times the labels of {name}: remove {folder} to get it again.")
    for corruption in corruptions:
        path = folder / f"{corruption}.npy"
        if (shape := _map(path).shape) != (len(labels), 32, 32, 3):
            raise UserError(
                f"{path} has the shape {shape}, which doesn't fit {len(labels)} images: remove {folder} to get it again."
            )
    stats = [(folder / f"{file}.npy").stat() for file in ("labels", *corruptions)]
    version = " ".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats)
    return Corrupted(name, source.classes, tuple(corruptions), partial(_read, folder), version)


def _map(path: Path) -> np.ndarray:
    """Maps the array of bytes in a ``.npy`` file, which is read when it is used. Pickled objects are refused."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is missing or damaged ({first_line(error)}): remove {path.parent} to get it again.") from error
    if array.dtype != np.uint8:
        raise UserError(f"{path} holds {array.dtype} instead of uint8: remove {path.parent} to get it again.")
    return array


def _read(folder: Path, corruption: str, severity: int) -> Images:
    pixels, labels = _map(folder / f"{corruption}.npy"), _map(folder / "labels.npy")
    n = len(labels) // len(SEVERITIES)
    rows = slice((severity - 1) * n, severity * n)
    copied = np.ascontiguousarray(pixels[rows].transpose(0, 3, 1, 2))
    return Images(torch.from_numpy(copied), torch.from_numpy(labels[rows].astype(np.int64)))


# Digits.


def load_digits_c() -> Corrupted:
    """Returns the 360 test images of the digits with corruptions, which are computed here and are always the same.

    See ``DIGITS_CORRUPTIONS``.
    """
    dataset = digits.load()

    def make(corruption: str, severity: int) -> Images:
        strengths, corrupt = DIGITS_CORRUPTIONS[corruption]
        pixels = corrupt(dataset.test.pixels.float() / 255, strengths[severity - 1], generator(0, "digits_c", corruption, severity))
        return Images((pixels.clamp(0, 1) * 255).round().to(torch.uint8), dataset.test.labels)

    version = str({name: strengths for name, (strengths, _) in DIGITS_CORRUPTIONS.items()})
    return Corrupted("digits_c", len(dataset.classes), tuple(DIGITS_CORRUPTIONS), make, version)


def _gaussian_noise(pixels: Tensor, std: float, random: torch.Generator) -> Tensor:
    return pixels + std * torch.randn(pixels.shape, generator=random)


def _gaussian_blur(pixels: Tensor, sigma: float, random: torch.Generator) -> Tensor:
    """Blurs with reflection at the border and a cut-off at four standard deviations."""
    from scipy.ndimage import gaussian_filter  # here because the import is slow

    return torch.from_numpy(gaussian_filter(pixels.numpy(), (0, 0, sigma, sigma)))


def _contrast(pixels: Tensor, factor: float, random: torch.Generator) -> Tensor:
    """Changes the contrast around each image's mean."""
    mean = pixels.mean((2, 3), keepdim=True)
    return (pixels - mean) * factor + mean


def _brightness(pixels: Tensor, added: float, random: torch.Generator) -> Tensor:
    return pixels + added


def _pixelate(pixels: Tensor, side: float, random: torch.Generator) -> Tensor:
    """Reduces images to ``side`` pixels a side, and enlarges these to squares."""
    return F.interpolate(F.interpolate(pixels, size=(side, side), mode="area"), size=pixels.shape[2:], mode="nearest")


def _jpeg_compression(pixels: Tensor, quality: float, random: torch.Generator) -> Tensor:
    compressed = []
    for image in (pixels * 255).round().to(torch.uint8)[:, 0].numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        compressed.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(compressed))[:, None].float() / 255


DIGITS_CORRUPTIONS: dict[str, tuple[tuple[float, ...], Callable[[Tensor, float, torch.Generator], Tensor]]] = {
    "gaussian_noise": ((0.1, 0.2, 0.3, 0.45, 0.6), _gaussian_noise),
    "gaussian_blur": ((1, 2, 3, 4, 5), _gaussian_blur),
    "brightness": ((0.1, 0.2, 0.3, 0.45, 0.6), _brightness),
    "contrast": ((0.6, 0.4, 0.3, 0.2, 0.1), _contrast),
    "pixelate": ((16, 10, 7, 5, 4), _pixelate),
    "jpeg_compression": ((15, 8, 4, 2, 1), _jpeg_compression),
}
"""Corruption -> the strengths of its severities, and the function that changes pixels ``[images, 1, height, width]`` in 0 to 1."""
