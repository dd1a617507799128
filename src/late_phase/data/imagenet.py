"""ImageNet (ILSVRC 2012), streamed from disk by worker processes because it doesn't fit into memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageNet
from torchvision.datasets.imagenet import ARCHIVE_META
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from late_phase.data.image_files import DECODING, list_splits, read_image, without_warnings
from late_phase.data.images import Dataset, Images
from late_phase.support.digests import digest, tensor_digest
from late_phase.support.errors import UserError
from late_phase.support.files import make_folder
from late_phase.support.seeding import generator, global_generators

SIZE = 224
CPU = torch.device("cpu")
TRAINING = v2.Compose([v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip()])
EVALUATION = v2.Compose([v2.Resize(256), v2.CenterCrop(SIZE)])


@dataclass(frozen=True)
class StreamedImages:
    """Labelled image files that are decoded when they are needed; like :class:`Images`, but without pixels in memory.

    Attributes:
        files: of any size and mode.
        labels: ``[examples]`` int64.
        workers: number of processes that decode; with 0, this process decodes. The images don't depend on it.
        device: device of the minibatches.
    """

    files: tuple[Path, ...]
    labels: Tensor
    workers: int
    device: torch.device = CPU

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of each image in a minibatch."""
        return 3, SIZE, SIZE

    def fingerprint(self) -> str:
        """Returns a hash of the labels and of the files' names, sizes and times of change.

        Hashing the contents would take hours.
        """
        stats = [(path, path.stat()) for path in self.files]
        files = (f"{path}:{stat.st_size}:{stat.st_mtime_ns}" for path, stat in stats)
        return digest(str(DECODING), tensor_digest([self.labels]), *files)

    def take(self, indices: Tensor) -> StreamedImages:
        return replace(self, files=tuple(self.files[i] for i in indices.tolist()), labels=self.labels[indices.cpu()])

    def to(self, device: torch.device) -> StreamedImages:
        """Returns the same images, with minibatches on ``device``."""
        return replace(self, device=device)

    def batches(self, size: int) -> Iterator[Images]:
        """Yields the images in their order, ``size`` at a time.

        Each is scaled to 256 pixels along the shorter side, then cropped to the 224 x 224 pixels in the middle.

        Raises:
            UserError: a file is not a readable image.
        """
        return self._stream(torch.arange(len(self)).split(size), None)

    def training_batches(
        self, size: int, seed: int, epoch: int, start: int = 0, portions: Sequence[slice | None] | None = None
    ) -> Iterator[Images]:
        """Yields the images of an epoch in random order, randomly cropped, scaled and mirrored, from minibatch ``start`` on.

        The result is a pure function of the seed and the epoch.

        Args:
            portions: for each minibatch from ``start`` on, which of its images are wanted, or None to leave it out; all by default.

        Raises:
            UserError: a file is not a readable image.
        """
        order = torch.randperm(len(self), generator=generator(seed, "batches", epoch))
        minibatches = order.split(size)[start:]
        if portions is not None:
            pairs = zip(minibatches, portions, strict=True)
            minibatches = [minibatch[portion] for minibatch, portion in pairs if portion is not None]
        return self._stream(minibatches, (seed, epoch))

    def _stream(self, indices: Sequence[Tensor], random: tuple[int, int] | None) -> Iterator[Images]:
        loader = DataLoader(
            _Decoded(self.files, self.labels, random),
            batch_sampler=[some.tolist() for some in indices],
            num_workers=self.workers,
            collate_fn=_collate,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # otherwise the loader would draw from the global one
        )
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            pixels, labels = (tensor.to(self.device, non_blocking=True) for tensor in batch)
            yield Images(pixels, labels)


@dataclass(frozen=True)
class _Decoded(torch.utils.data.Dataset):
    """Gives each file as ``[3, 224, 224]`` uint8 with its label, or the error of reading it.

    The error is returned because an error raised in a worker would arrive with the worker's traceback.
    """

    files: tuple[Path, ...]
    labels: Tensor
    random: tuple[int, int] | None
    """Seed and epoch of training; None for evaluation."""

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor] | UserError:
        with without_warnings():
            try:
                image = read_image(self.files[i])
            except UserError as error:
                return error
            if self.random is None:
                image = EVALUATION(image)
            else:
                seed, epoch = self.random
                with global_generators(CPU, seed, "crops", epoch, i):
                    image = TRAINING(image)
        return pil_to_tensor(image), self.labels[i]


def _collate(examples: list[tuple[Tensor, Tensor] | UserError]) -> tuple[Tensor, Tensor] | UserError:
    for example in examples:
        if isinstance(example, UserError):
            return example
    pixels, labels = zip(*examples, strict=True)
    return torch.stack(pixels), torch.stack(labels)


def load(root: str, workers: int = 8) -> Dataset:
    """Loads 1,281,167 training images, and 50,000 validation images as test images.

    Classes are WordNet's numbers, sorted.

    Args:
        root: the folder with ``train/<class>/*`` and ``val/<class>/*``, or with the three archives, which are then extracted.

    Raises:
        UserError: ``root`` has neither, the classes of training and validation differ, or a class has no image.
    """
    folder = Path(root)
    for split in ("train", "val"):
        _extract(folder, split)
    splits = list_splits(root, ("train", "val"))
    classes = tuple(splits["train"])
    if splits["train"].keys() != splits["val"].keys():
        raise UserError(f"dataset.root={root} has different classes in train and val: remove both folders to extract them again.")
    images = {}
    for split, by_class in splits.items():
        files = [by_class[name] for name in classes]
        labels = torch.arange(len(files)).repeat_interleave(torch.tensor([len(some) for some in files]))
        images[split] = StreamedImages(tuple(path for some in files for path in some), labels, workers)
    return Dataset("imagenet", classes, images["train"], images["val"])


def _extract(folder: Path, split: str) -> None:
    """Makes a split's folder if it is absent. torchvision verifies and extracts the archives.

    The folder gets its name only when it is whole.
    """
    to = folder / split
    if to.is_dir():
        return
    make_folder("dataset.root", folder)
    with FileLock(folder / ".imagenet.lock"):
        if not to.is_dir():  # another process may have been faster
            scratch = folder / ".imagenet.extracting"
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            try:
                for name, _ in (ARCHIVE_META[split], ARCHIVE_META["devkit"]):
                    (scratch / name).symlink_to((folder / name).resolve())
                ImageNet(str(scratch), split=split)
                (scratch / split).replace(to)
            except (OSError, RuntimeError) as error:
                archives = " and ".join(f"{name} (md5 {md5})" for name, md5 in (ARCHIVE_META[split], ARCHIVE_META["devkit"]))
                raise UserError(
                    f"dataset.root={folder.resolve()} has neither the folder {split} nor undamaged archives of it: put "
                    f"the folder there, or download {archives} from https://image-net.org, which needs a registration."
                ) from error
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
