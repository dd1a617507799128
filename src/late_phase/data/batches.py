"""Minibatches of images, and the interface of all minibatches. An epoch is a pure function of the seed and its number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from late_phase.data.images import Images, Normalization
from late_phase.support.errors import UserError
from late_phase.support.memory import check_memory
from late_phase.support.seeding import generator

if TYPE_CHECKING:  # imports torchvision, which takes seconds
    from late_phase.data.imagenet import StreamedImages


Portion = Callable[[int, int], slice | None]
"""Epoch, index of a minibatch -> the slice of its examples that a process wants, or None for none."""


def refuse_change(kind: str, former: str, sha256: str) -> None:
    """Refuses a checkpoint that was written with other data of the user's. It compares the checksums.

    Args:
        kind: what the data are, such as text.

    Raises:
        UserError: they differ.
    """
    if former != sha256:
        raise UserError(
            f"the {kind} has changed since the checkpoint was written (sha256 {former[:12]}, now {sha256[:12]}): restore the "
            f"former {kind}, or remove the run's directory."
        )


def all_examples(epoch: int, batch: int) -> slice:
    """The portion of a process that has all minibatches for itself."""
    return slice(None)


class Batches(ABC):
    """The minibatches of each epoch in their order, starting from any of them.

    Attributes:
        independent: whether the logits of a minibatch don't depend on the minibatches before it.
        targets_per_example: how many targets an example has.
        portion: which examples of a minibatch this process wants.
    """

    independent: bool = True
    targets_per_example: int = 1
    portion: Portion = staticmethod(all_examples)

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of minibatches in an epoch."""

    @abstractmethod
    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor] | None]:
        """Yields the inputs and targets of an epoch, from minibatch ``start`` on. In a classification targets are labels.

        Each is this process's portion of a minibatch, or None if it wants none of it.
        """

    def examples(self, batch: int) -> int | None:
        """Returns the number of examples in minibatch ``batch``, all portions together; None if it can't be divided."""
        return None

    def outputs(self, model: Callable[..., Any], inputs: Tensor) -> Tensor:
        """Returns the model's outputs for a minibatch: ``[examples, ...]``. In a classification they are logits."""
        return model(inputs)

    def predict(self, model: Callable[..., Any], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the model's outputs for a minibatch, and the target of each row.

        A model that is an ensemble by itself returns the outputs of all its members, so the targets are repeated.
        """
        outputs = self.outputs(model, inputs)
        return outputs, targets.repeat(len(outputs) // len(targets))

    def state_dict(self) -> dict[str, Any]:
        """Returns what resuming within an epoch needs besides the numbers of the epoch and the minibatch."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: B027 most have no state
        """Restores :meth:`state_dict`."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images.

    Attributes:
        crop_padding: black pixels added on each side before a random crop of the original size.
        flip: whether each image is mirrored left to right with probability 1/2.
        cutout: side in pixels of the square erased around a random pixel, clipped at the border (DeVries & Taylor, 2017);
            0 for none. Erased pixels have the mean colour, because cutout follows normalization.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0


class ImageBatches(Batches):
    """Minibatches of ``batch_size`` images; the last one of an epoch may be smaller. A portion is a first image and a step."""

    images: Images | StreamedImages
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def examples(self, batch: int) -> int:
        return min(self.batch_size, len(self.images) - batch * self.batch_size)


class TrainingBatches(ImageBatches):
    """Shuffled, augmented and normalized minibatches.

    Args:
        images: training images, on the device where the minibatches are wanted.
        channels_last: memory format of the minibatches; their shape is ``[batch, channels, height, width]`` either way.

    Raises:
        UserError: the padded images don't fit into memory, or cutout always erases a whole image.
    """

    def __init__(
        self,
        images: Images,
        normalization: Normalization,
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
        channels_last: bool = False,
    ) -> None:
        self.images = images
        self.normalization = normalization
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.seed = seed
        padding, cutout, (channels, height, width) = augmentation.crop_padding, augmentation.cutout, images.shape
        size = f"images of {width} x {height} pixels"
        padded = len(images) * channels * (height + 2 * padding) * (width + 2 * padding)
        check_memory(f"dataset.crop_padding={padding} around {len(images):,} {size}", padded, "choose a smaller one.")
        if cutout >= (whole := 2 * max(height, width) - 1):
            raise UserError(f"dataset.cutout={cutout} always erases the whole of {size}: choose less than {whole}.")
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._padded = F.pad(images.pixels, [padding] * 4).contiguous(memory_format=memory_format)

    @cached_property
    def _sha256(self) -> str:
        return self.images.fingerprint()

    def state_dict(self) -> dict[str, Any]:
        return {"images": self._sha256}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuses the checkpoint of other images.

        Raises:
            UserError: the images have changed.
        """
        refuse_change("set of images", state_dict.get("images", self._sha256), self._sha256)  # the oldest checkpoints lack it

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor] | None]:
        """Yields inputs ``[batch, channels, height, width]`` float32 and labels ``[batch]``, from minibatch ``start`` on."""
        device = self._padded.device
        n, (height, width) = len(self.images), self.images.pixels.shape[-2:]
        random = generator(self.seed, "batches", epoch)
        order = torch.randperm(n, generator=random).to(device)
        dy, dx = torch.randint(2 * self.augmentation.crop_padding + 1, (2, n), generator=random).to(device)
        flips = (torch.rand(n, generator=random) < 0.5 * self.augmentation.flip).to(device)
        centres = (torch.rand(2, n, generator=random) * torch.tensor([[height], [width]])).long().to(device)
        for batch in range(start, len(self)):
            if (portion := self.portion(epoch, batch)) is None:
                yield None
                continue
            begin = batch * self.batch_size
            which = slice(begin + (portion.start or 0), begin + self.batch_size, portion.step)
            crop = crop_and_flip if self._padded.is_cpu else crop_and_flip_by_pixel
            inputs = self.normalization(crop(self._padded, order[which], dy[which], dx[which], flips[which], (height, width)))
            if self.augmentation.cutout:
                inputs = cutout(inputs, centres[:, which], self.augmentation.cutout)
            yield inputs, self.images.labels[order[which]]


class StreamedBatches(ImageBatches):
    """Minibatches of images that are streamed from disk and augmented on the way; otherwise like :class:`TrainingBatches`."""

    def __init__(
        self, images: StreamedImages, normalization: Normalization, batch_size: int, seed: int, channels_last: bool = False
    ) -> None:
        self.images = images
        self.normalization = normalization
        self.batch_size = batch_size
        self.seed = seed
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor] | None]:
        portions = [self.portion(epoch, batch) for batch in range(start, len(self))]
        streamed = self.images.training_batches(self.batch_size, self.seed, epoch, start, portions)
        for portion in portions:
            if portion is None:
                yield None
                continue
            batch = next(streamed)
            yield self.normalization(batch.pixels.contiguous(memory_format=self.memory_format)), batch.labels


def crop_and_flip(images: Tensor, which: Tensor, dy: Tensor, dx: Tensor, flips: Tensor, size: tuple[int, int]) -> Tensor:
    """Cuts windows out of the images ``which``, from row ``dy`` and column ``dx`` on.

    Windows are mirrored left to right where ``flips``. All possible windows, at any pixel of any image, form one tensor of
    overlapping views. ``index_select`` copies the wanted ones row by row, which is several times faster on a CPU than indexing
    pixels.

    Args:
        images: ``[images, channels, height, width]``, dense, contiguous or channels-last.
        which, dy, dx, flips: ``[batch]``.

    Returns:
        ``[batch, channels, *size]``, in the memory format of ``images``.
    """
    by_image, by_channel, by_row, by_column = images.stride()
    channels_last = by_channel == 1 and images.shape[1] > 1
    # Dimensions in memory order, and the place of the column among them.
    shape, strides, column = (images.shape[1], *size), (by_channel, by_row, by_column), 3
    if channels_last:
        shape, strides, column = (*size, images.shape[1]), (by_row, by_column, by_channel), 2
    count = images.numel() - sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    windows = images.as_strided((count, *shape), (1, *strides)).index_select(0, which * by_image + dy * by_row + dx * by_column)
    if flips.any():
        both = torch.cat((windows, windows.flip(column)))
        windows = both.index_select(0, torch.arange(len(flips)) + len(flips) * flips)
    return windows.permute(0, 3, 1, 2) if channels_last else windows


def crop_and_flip_by_pixel(images: Tensor, which: Tensor, dy: Tensor, dx: Tensor, flips: Tensor, size: tuple[int, int]) -> Tensor:
    """Does the same as :func:`crop_and_flip` on any device.

    Devices other than the CPU may not allow a view that is larger than their memory.
    """
    height, width = (torch.arange(length, device=images.device) for length in size)
    rows = dy[:, None] + height
    columns = dx[:, None] + torch.where(flips[:, None], size[1] - 1 - width, width)
    windows = images.permute(0, 2, 3, 1)[which[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return windows.contiguous(memory_format=torch.contiguous_format if images.is_contiguous() else torch.channels_last)


def cutout(images: Tensor, centres: Tensor, size: int) -> Tensor:
    """Sets a square with sides of ``size`` pixels to 0 in each of ``images`` ``[examples, channels, height, width]``.

    The square lies around ``centres`` ``[2, examples]``, rows and columns, and is clipped at the border.
    """

    def inside(length: int, centre: Tensor) -> Tensor:
        first = centre[:, None] - size // 2
        position = torch.arange(length, device=images.device)
        return (position >= first) & (position < first + size)

    rows, columns = inside(images.shape[-2], centres[0]), inside(images.shape[-1], centres[1])
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)
