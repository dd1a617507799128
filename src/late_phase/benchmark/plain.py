"""Our data and our training against a careful user's own loop, on random images."""

from __future__ import annotations

import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from late_phase.benchmark.rates import DTYPES, TERA, Isolated, convolutions
from late_phase.benchmark.workloads import CPU, SGD, Sizes, build, build_as_here, forward_in, memory_format, train
from late_phase.data.batches import Augmentation, TrainingBatches
from late_phase.data.images import Images, Normalization
from late_phase.support.timing import EPOCH, Block, measure, timed
from late_phase.tasks.objective import Classification
from late_phase.training.state import EpochSums

NORMALIZATION = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
PREFETCH = 2  # minibatches that each worker of a DataLoader prepares ahead; torch's default
SETTLE = 0.3  # seconds in which these workers fill their queue and become idle


class PILImages(Dataset):
    """Single images, augmented through PIL as in torchvision's CIFAR."""

    def __init__(self, images: Images) -> None:
        self.pixels, self.labels = images.pixels.permute(0, 2, 3, 1).contiguous().numpy(), images.labels.tolist()
        from torchvision import transforms  # takes seconds to import

        augmentation = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
        to_tensor = [transforms.ToTensor(), transforms.Normalize(NORMALIZATION.mean, NORMALIZATION.std)]
        self.transform = transforms.Compose(augmentation + to_tensor)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


@dataclass(frozen=True)
class Data:
    """Random images, as our minibatches on ``device`` and as blocks of a DataLoader's minibatches."""

    sizes: Sizes
    device: torch.device
    images: Images

    @classmethod
    def random(cls, sizes: Sizes, device: torch.device) -> Data:
        pixels = torch.randint(256, (sizes.images, 3, 32, 32), dtype=torch.uint8)
        return cls(sizes, device, Images(pixels, torch.randint(10, (sizes.images,))))

    def ours(self, channels_last: bool) -> TrainingBatches:
        augmentation = Augmentation(crop_padding=4, flip=True)
        return TrainingBatches(self.images.to(self.device), NORMALIZATION, augmentation, self.sizes.batch, 0, channels_last)

    def pil(self, workers: int, count: int, use: Callable[[Iterator], object]) -> Block:
        """Returns a block that calls ``use`` on ``count`` minibatches.

        All blocks share one DataLoader, so the start of its workers doesn't count.
        """
        options = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": self.device.type == "cuda"}
        loader = DataLoader(PILImages(self.images), self.sizes.batch, shuffle=True, drop_last=True, **options)
        minibatches = itertools.chain.from_iterable(itertools.repeat(loader))

        def block() -> float:
            use(itertools.islice(minibatches, 1 + PREFETCH * workers))  # the queue, filled before the block, doesn't count
            return timed(lambda: use(itertools.islice(minibatches, count)), self.device, count * self.sizes.batch)

        return block

    def measure(self, name: str, bar: float | None, ours: Block, pil: Callable[[int], Block], gain: bool = False) -> dict[str, Any]:
        """Measures ours against a DataLoader with the number of workers that was fastest in one block.

        The workers of a DataLoader end with it.
        """

        def settled() -> float:
            time.sleep(SETTLE)
            return ours()

        workers = min(self.sizes.workers, key=lambda workers: pil(workers)())
        return measure(name, bar, settled, pil(workers), self.sizes.pairs, gain) | {"reference_workers": workers}


def augment_over_pil(sizes: Sizes) -> dict[str, Any]:
    """Measures augmentation against PIL, always on the CPU. Our block is an epoch, PIL's block is a tenth of one."""
    data, use = Data.random(sizes, CPU), deque(maxlen=0).extend
    batches, count = data.ours(channels_last=False), -(-sizes.images // sizes.batch // 10)

    def ours() -> float:
        return timed(lambda: use(batches.epoch(0)), CPU, sizes.images)

    return data.measure("augment_over_pil", 20.0, ours, lambda workers: data.pil(workers, count, use), gain=True)


def epoch_over_plain(name: str, precision: str, bar: float | None, sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Measures training as in late_phase.training.loop against a careful user's own loop, with data, scaled to an epoch.

    The user's loop computes in fp32, as torch does by itself. Each of our blocks starts a new epoch, so the set-up of an epoch
    counts more often than it happens in training.
    """
    data, count = Data.random(sizes, device), sizes.block[name]
    batches = data.ours(memory_format(name) == torch.channels_last)
    model, late = build_as_here(name, sizes, device, sizes.K)

    def train_as_here() -> None:
        sums, correct = EpochSums(), Classification().correct

        def record(loss: Tensor, logits: Tensor, labels: Tensor) -> None:
            sums.add(loss, correct(logits, labels), len(labels))

        train(model, late, itertools.islice(batches.epoch(0), count), record, forward_in(precision, device))
        sums.synchronize()

    def ours() -> float:
        torch.backends.cudnn.deterministic = True  # as in training
        return timed(train_as_here, device, count * sizes.batch)

    return data.measure(f"epoch_over_plain_{name}_{precision}", bar, ours, lambda workers: plain_loop(name, data, workers))


def convolutions_over_plain(name: str, precision: str, sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Measures the convolutions of an epoch, each by itself, against the same loop: no training that computes them is faster."""
    data, count = Data.random(sizes, device), sizes.block[name]
    inputs = torch.randn(sizes.batch, 3, 32, 32, device=device)
    counted = convolutions(build(name, sizes, device), inputs)
    counted = Counter({shape: count * number for shape, number in counted.items()})
    isolated = Isolated(counted, DTYPES[precision], memory_format(name), device)
    teras = isolated.flops / TERA * EPOCH / (count * sizes.batch)  # 10^12 operations in an epoch

    def alone() -> float:
        return isolated.block() * teras

    return data.measure(f"convolutions_over_plain_{name}_{precision}", None, alone, lambda workers: plain_loop(name, data, workers))


def plain_loop(name: str, data: Data, workers: int) -> Block:
    """Returns a block of a careful user's own loop, whose DataLoader has so many workers."""
    sizes, device = data.sizes, data.device
    model = build(name, sizes, device)
    optimizer = torch.optim.SGD(model.parameters(), **SGD)

    def train_plainly(minibatches: Iterator) -> None:
        torch.backends.cudnn.deterministic = False  # torch's default
        total = torch.zeros((), device=device)
        minibatches = ((x.to(device, non_blocking=True), y.to(device, non_blocking=True)) for x, y in minibatches)
        train(model, optimizer, minibatches, lambda loss, *_: total.add_(loss.detach()))
        total.item()

    return data.pil(workers, sizes.block[name], train_plainly)
