"""Small images as tensors: a dataset is one uint8 tensor, and augmentation is a batched tensor operation on its device."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from late_phase.support.digests import tensor_digest
from late_phase.support.errors import UserError
from late_phase.support.seeding import generator

HISTOGRAM_BATCH_SIZE = 1000

UNLABELLED = -1
"""The label of unlabelled images."""


@dataclass(frozen=True)
class Images:
    """Images: ``pixels`` ``[examples, channels, height, width]`` uint8, and ``labels`` ``[examples]`` int64, -1 for unlabelled."""

    pixels: Tensor
    labels: Tensor

    @classmethod
    def unlabelled(cls, pixels: Tensor) -> Images:
        return cls(pixels, torch.full((len(pixels),), UNLABELLED, device=pixels.device))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of each image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def fingerprint(self) -> str:
        """Returns a hash of the pixels and labels."""
        return tensor_digest([self.pixels, self.labels])

    def take(self, indices: Tensor) -> Images:
        return Images(self.pixels[indices], self.labels[indices])

    def to(self, device: torch.device) -> Images:
        return Images(self.pixels.to(device), self.labels.to(device))

    def batches(self, size: int) -> Iterator[Images]:
        """Yields the images in their order, ``size`` at a time; the last batch may be smaller."""
        for pixels, labels in zip(self.pixels.split(size), self.labels.split(size), strict=True):
            yield Images(pixels, labels)

    def fit(self, channels: int, size: tuple[int, int]) -> Images:
        """Converts the images to this number of ``channels`` and ``size`` (height, width), for a model of other images.

        Colours become their luminance (ITU-R 601-2, as in Pillow), and grey becomes three equal channels. The size is changed
        bilinearly, with antialiasing, on the CPU. All arithmetic is on integers, so the result is the same on every device.

        Raises:
            UserError: the images can't be converted to this number of channels.
        """
        pixels, there = self.pixels, self.pixels.shape[1]
        if channels != there and {channels, there} != {1, 3}:
            raise UserError(
                f"images of {there} channels can't be shown to a model of {channels} channels: choose images of 1 or 3."
            )
        if channels < there:
            pixels = torch.cat([_luminance(some) for some in pixels.split(1000)])
        if tuple(pixels.shape[2:]) != tuple(size):
            resized = F.interpolate(pixels.cpu(), size=tuple(size), mode="bilinear", antialias=True, align_corners=False)
            pixels = resized.to(pixels.device)
        if channels > there:
            pixels = pixels.repeat(1, channels, 1, 1)
        return Images(pixels, self.labels)


def _luminance(pixels: Tensor) -> Tensor:
    """Converts ``[examples, 3, height, width]`` uint8 to ``[examples, 1, height, width]`` uint8."""
    red, green, blue = pixels.int().unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).to(torch.uint8)[:, None]


@dataclass(frozen=True)
class Dataset:
    """Training and test images of the same classes, and validation images if some were held out of the training images.

    A dataset for evaluation only has no training images. If its images have no labels, it has no classes.
    """

    name: str
    classes: tuple[str, ...]
    train: Images | None
    test: Images
    validation: Images | None = None

    def to(self, device: torch.device) -> Dataset:
        train, validation = (None if images is None else images.to(device) for images in (self.train, self.validation))
        return replace(self, train=train, test=self.test.to(device), validation=validation)

    def in_words(self) -> str:
        """Returns the amount of data in words."""
        training = "" if self.train is None else f"{len(self.train):,} training images, "
        classes = f" in {len(self.classes)} classes" if self.classes else ", unlabelled"
        return f"{training}{len(self.test):,} test images{classes}"

    def training_images(self) -> Images:
        """Returns the training images.

        Raises:
            UserError: there are none.
        """
        if self.train is None:
            raise UserError(f"dataset={self.name} is for evaluation only and has no training images: train on another dataset.")
        return self.train

    def held_out(self) -> dict[str, Images]:
        """Returns the images that the model isn't trained on, by the name of their split."""
        return {"test": self.test} | ({} if self.validation is None else {"validation": self.validation})

    def split(self, validation: int, subset: int | None, test_subset: int | None, seed: int) -> Dataset:
        """Holds out ``validation`` random training images, and keeps random subsets of the others and of the test images.

        A subset of None keeps all images. The choice depends on ``seed`` alone. The validation images are the same for any subset,
        which never contains them.

        Raises:
            UserError: there are too few images.
        """
        if (test_subset or 1) > len(self.test):
            raise UserError(
                f"dataset.test_subset={test_subset} is more than the {len(self.test)} test images of {self.name}: choose fewer."
            )
        test_order = torch.randperm(len(self.test), generator=generator(seed, "test subset"))
        test = self.test.take(test_order[:test_subset].sort().values)
        if self.train is None and not validation and subset is None:
            return replace(self, test=test)
        train = self.training_images()
        left = len(train) - validation
        if left < max(subset or 1, 1):
            raise UserError(
                f"dataset.validation={validation} and dataset.subset={subset} ask for more than the {len(train)} training "
                f"images of {self.name}: choose smaller numbers."
            )
        order = torch.randperm(len(train), generator=generator(seed, "split"))
        return replace(
            self,
            train=train.take(order[validation:][:subset].sort().values),
            test=test,
            validation=train.take(order[:validation].sort().values) if validation else None,
        )


@dataclass(frozen=True)
class Normalization:
    """Channelwise mean and standard deviation of pixel values on a scale from 0 to 1 (Appendix A)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: Images) -> Normalization:
        """Computes the mean and standard deviation over all pixels of each channel, exactly, from histograms.

        Raises:
            UserError: a channel is constant.
        """
        values = torch.arange(256, dtype=torch.float64) / 255
        counts = torch.zeros(images.shape[0], 256, dtype=torch.float64)
        for batch in images.batches(HISTOGRAM_BATCH_SIZE):
            for channel, own in enumerate(counts):
                own += torch.bincount(batch.pixels[:, channel].flatten().cpu(), minlength=256)
        mean, std = [], []
        for channel, own in enumerate(counts):
            weights = own / own.sum()
            mean.append(float(weights @ values))
            std.append(float((weights @ (values - mean[-1]) ** 2).sqrt()))
            if std[-1] == 0:
                raise UserError(
                    f"channel {channel} of the training images is constant: check the images, or set dataset.mean and .std."
                )
        return cls(tuple(mean), tuple(std))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Normalization:
        return cls(**{key: tuple(values) for key, values in json.loads(text).items()})

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalizes pixels ``[examples, channels, height, width]`` uint8 to float32, with torchvision's rounding.

        The memory format stays the same.
        """
        mean, std = _as_images(self, tuple(pixels.shape[1:]), pixels.device, pixels.stride(1) == 1)
        return pixels.float().div_(255).sub_(mean).div_(std)


@functools.lru_cache(maxsize=16)
def _as_images(values: Normalization, shape: tuple[int, ...], device: torch.device, channels_last: bool) -> tuple[Tensor, Tensor]:
    """Returns the mean and standard deviation ``[1, channels, height, width]``, laid out like the pixels.

    Broadcasting would be slow.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    mean, std = (
        torch.tensor(numbers, device=device).view(1, -1, 1, 1).expand(1, *shape).contiguous(memory_format=memory_format)
        for numbers in (values.mean, values.std)
    )
    return mean, std
