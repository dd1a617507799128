"""Small images as tensors: a dataset is one uint8 tensor, and augmentation is a batched tensor operation on its device."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from late_phase.errors import UserError
from late_phase.seeding import generator


@dataclass(frozen=True)
class Images:
    """Labelled images: ``pixels`` ``[examples, channels, height, width]`` uint8, ``labels`` ``[examples]`` int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Images:
        return Images(self.pixels[indices], self.labels[indices])

    def to(self, device: torch.device) -> Images:
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """Training and test images of the same classes, and validation images if some were held out of the training images."""

    name: str
    classes: tuple[str, ...]
    train: Images
    test: Images
    validation: Images | None = None

    def to(self, device: torch.device) -> Dataset:
        validation = None if self.validation is None else self.validation.to(device)
        return replace(self, train=self.train.to(device), test=self.test.to(device), validation=validation)

    def held_out(self) -> dict[str, Images]:
        """The images that the model isn't trained on, by the name of their split."""
        return {"test": self.test} | ({} if self.validation is None else {"validation": self.validation})

    def split(self, validation: int, subset: int | None, test_subset: int | None, seed: int) -> Dataset:
        """Holds out ``validation`` random training images; of the others and of the test images keeps random subsets, or all.

        The choice depends on ``seed`` alone. The validation images are the same for any subset, and not in it.

        Raises:
            UserError: there are not as many images.
        """
        left = len(self.train) - validation
        if left < max(subset or 1, 1):
            raise UserError(
                f"dataset.validation={validation} and dataset.subset={subset} ask for more than the {len(self.train)} training "
                f"images of {self.name}: choose smaller numbers."
            )
        if (test_subset or 1) > len(self.test):
            raise UserError(
                f"dataset.test_subset={test_subset} is more than the {len(self.test)} test images of {self.name}: choose fewer."
            )
        order = torch.randperm(len(self.train), generator=generator(seed, "split"))
        test_order = torch.randperm(len(self.test), generator=generator(seed, "test subset"))
        return replace(
            self,
            train=self.train.take(order[validation:][:subset].sort().values),
            test=self.test.take(test_order[:test_subset].sort().values),
            validation=self.train.take(order[:validation].sort().values) if validation else None,
        )


@dataclass(frozen=True)
class Normalization:
    """Channelwise mean and standard deviation of pixel values on a scale from 0 to 1 (Appendix A)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: Images) -> Normalization:
        """Mean and standard deviation over all pixels of each channel, exactly, from histograms.

        Raises:
            UserError: a channel is constant.
        """
        values = torch.arange(256, dtype=torch.float64) / 255
        mean, std = [], []
        for channel in range(images.pixels.shape[1]):
            counts = torch.bincount(images.pixels[:, channel].flatten().cpu(), minlength=256).double()
            weights = counts / counts.sum()
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
        """Pixels ``[examples, channels, height, width]`` uint8 -> float32 in the same memory format, rounded like torchvision's."""
        mean, std = _as_images(self, tuple(pixels.shape[1:]), pixels.device, pixels.stride(1) == 1)
        return pixels.float().div_(255).sub_(mean).div_(std)


@functools.lru_cache(maxsize=16)
def _as_images(values: Normalization, shape: tuple[int, ...], device: torch.device, channels_last: bool) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``[1, channels, height, width]``, laid out like the pixels: broadcasting would be slow."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    mean, std = (
        torch.tensor(numbers, device=device).view(1, -1, 1, 1).expand(1, *shape).contiguous(memory_format=memory_format)
        for numbers in (values.mean, values.std)
    )
    return mean, std
