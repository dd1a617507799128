"""Minibatches of training images. The way through an epoch is a pure function of the seed and the epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from late_phase.data.images import Images, Normalization
from late_phase.seeding import generator


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images.

    Attributes:
        crop_padding: black pixels added on each side before an image's original size is cropped out at random.
        flip: whether each image is mirrored left to right with probability 1/2.
        cutout: side in pixels of the square erased around a random pixel, clipped at the border (DeVries & Taylor, 2017); 0 for none.
            Erased pixels have the mean colour, as the cutout follows the normalization.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0


class TrainingBatches:
    """Shuffled, augmented and normalized minibatches; the last one of an epoch may be smaller."""

    def __init__(
        self, images: Images, normalization: Normalization, augmentation: Augmentation, batch_size: int, seed: int
    ) -> None:
        self.images = images
        self.normalization = normalization
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.seed = seed
        self._padded = F.pad(images.pixels, [augmentation.crop_padding] * 4)

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs ``[batch, channels, height, width]`` float32 and labels ``[batch]`` of an epoch, from minibatch ``start`` on."""
        device = self._padded.device
        n, (height, width) = len(self.images), self.images.pixels.shape[-2:]
        random = generator(self.seed, "batches", epoch)
        order = torch.randperm(n, generator=random).to(device)
        shifts = torch.randint(2 * self.augmentation.crop_padding + 1, (2, n), generator=random).to(device)
        flips = (torch.rand(n, generator=random) < 0.5 * self.augmentation.flip).to(device)
        centres = (torch.rand(2, n, generator=random) * torch.tensor([[height], [width]])).long().to(device)
        windows = self._padded.unfold(2, height, 1).unfold(3, width, 1)
        for batch in range(start, len(self)):
            which = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
            indices, (dy, dx) = order[which], shifts[:, which]
            pixels = windows[indices, :, dy, dx]
            if self.augmentation.flip:
                pixels = torch.where(flips[which, None, None, None], pixels.flip(-1), pixels)
            inputs = self.normalization(pixels)
            if self.augmentation.cutout:
                inputs = cutout(inputs, centres[:, which], self.augmentation.cutout)
            yield inputs, self.images.labels[indices]


def cutout(images: Tensor, centres: Tensor, size: int) -> Tensor:
    """Sets a square of ``size`` pixels to 0 in each image ``[examples, channels, height, width]``, around ``centres`` ``[2, examples]``."""

    def inside(length: int, centre: Tensor) -> Tensor:
        first = centre[:, None] - size // 2
        position = torch.arange(length, device=images.device)
        return (position >= first) & (position < first + size)

    rows, columns = inside(images.shape[-2], centres[0]), inside(images.shape[-1], centres[1])
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)
