"""The workloads on random images: late-phase training against its base, and our data and training against a user's own loop."""

from __future__ import annotations

import itertools
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from late_phase import LatePhase, architectures, batchnorm, head
from late_phase.config.choices import CHOICES
from late_phase.data.batches import Augmentation, TrainingBatches
from late_phase.data.images import Images, Normalization
from late_phase.optimization import optimizers
from late_phase.support.devices import cores
from late_phase.support.timing import EPOCH, Block, measure, peak_bytes, timed
from late_phase.tasks.objective import Classification
from late_phase.training.state import EpochSums

CPU = torch.device("cpu")
SGD = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
NORMALIZATION = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
PREFETCH = 2  # minibatches that each worker of a DataLoader prepares ahead; torch's default
SETTLE = 0.3  # seconds in which these workers fill their queue and become idle

Minibatches = Iterable[tuple[Tensor, Tensor]]


def worker_choices() -> tuple[int, ...]:
    """Returns 0, the powers of two, and the number of cores that this process may use. With two cores these are 0, 1 and 2."""
    most = cores()
    return tuple(sorted({0, most, *(2**i for i in range(most.bit_length()) if 2**i < most)}))


@dataclass(frozen=True)
class Sizes:
    """The sizes of the workloads. The bars hold for the defaults; tests use smaller sizes. ``block`` has the minibatches in a block
    of epoch_over_plain, by architecture. ``symbols``, ``units`` and the ``length`` of a segment are for rank1_over_lstm."""

    pairs: int = 6
    depth: int = 16
    width: int = 2
    batch: int = 128
    images: int = EPOCH
    K: int = 10
    symbols: int = 205
    units: int = 500
    length: int = 100
    block: dict[str, int] = field(default_factory=lambda: {"wrn": 5, "lenet": 50})
    workers: tuple[int, ...] = field(default_factory=worker_choices)


# ------------------------------------------------------------------------------------------------------- late-phase against base


def build(name: str, sizes: Sizes, device: torch.device) -> nn.Module:
    options = {"depth": sizes.depth, "width": sizes.width} if name == "wrn" else {}
    return architectures.build(name, 3, 10, **options).to(device)


def memory_format(name: str) -> torch.memory_format:
    """Returns the memory format in which we train an architecture."""
    config = CHOICES["architecture"][name].config
    return torch.channels_last if config.channels_last else torch.contiguous_format


def build_as_here(name: str, sizes: Sizes, device: torch.device, K: int | None) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Returns a model and its optimizer as in training. With ``K`` the optimizer is LatePhase, before the spawn."""
    model = build(name, sizes, device).to(memory_format=memory_format(name))
    optimizer = optimizers.build("sgd", model, **SGD)
    return model, optimizer if K is None else LatePhase(model, optimizer, batchnorm() + head(), K)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, minibatches: Minibatches, record: Callable = lambda *_: None) -> None:
    """Trains with the same loop on both sides. LatePhase doesn't need ``zero_grad``, but the time of it counts."""
    for inputs, labels in minibatches:
        logits = model(inputs)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        record(loss, logits, labels)


def random_minibatches(sizes: Sizes, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    inputs = torch.randn(sizes.K, sizes.batch, 3, 32, 32).to(device)
    return [(x.to(memory_format=memory_format("wrn")), torch.randint(10, (sizes.batch,)).to(device)) for x in inputs]


def warm(sizes: Sizes, device: torch.device, K: int | None, minibatches: list) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Returns a new model and its optimizer after one minibatch, which creates the momentum. With ``K`` it then spawns."""
    model, optimizer = build_as_here("wrn", sizes, device, K)
    train(model, optimizer, minibatches[:1])
    if K is not None:
        optimizer.spawn()
    return model, optimizer


def late_blocks(sizes: Sizes, device: torch.device, lifetime: int, *Ks: int | None) -> list[Block]:
    """Returns blocks of the same ``sizes.K`` minibatches for each K. K = None means the optimizer without LatePhase.

    The minibatches are already on the device. Each model serves ``lifetime`` blocks: the place in memory can change a model's
    speed by a percent. With one model for all blocks, this would look like an effect of K.
    """
    minibatches = random_minibatches(sizes, device)

    def blocks(K: int | None) -> Iterator[float]:
        while True:
            run = partial(train, *warm(sizes, device, K, minibatches), minibatches)
            for _ in range(lifetime):
                yield timed(run, device, sizes.K * sizes.batch)

    return [blocks(K).__next__ for K in Ks]


def late_over_base(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Measures late-phase training against its base. A block is one iteration, so it has one step of θ."""
    ours, reference = late_blocks(sizes, device, 1, sizes.K, None)
    return measure("late_over_base", 1.0, ours, reference, sizes.pairs, noisy=True)


def k50_over_k1(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Measures iterations of 5 K minibatches against K = 1, in blocks of K minibatches.

    A block of 5 K minibatches takes half a minute, in which a machine's speed changes too much. Only one block in five has the
    step of θ, so the median over pairs hardly shows it. ``ratio_of_totals`` includes it fully.
    """
    ours, reference = late_blocks(sizes, device, 5, 5 * sizes.K, 1)
    return measure(f"k{5 * sizes.K}_over_k1", 1.0, ours, reference, 5 * max(1, sizes.pairs // 3), noisy=True)


def step_microseconds(sizes: Sizes, device: torch.device, steps: int = 400) -> dict[str, float]:
    """Measures the mean time of ``step()`` alone, with given gradients.

    It shows what the late phase adds to a minibatch or saves, without the noise of the forward and backward passes.
    """

    def stepper(K: int | None) -> Callable[[], float]:
        model, optimizer = warm(sizes, device, K, random_minibatches(sizes, device))

        def step() -> float:
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 1e-6)
            return timed(optimizer.step, device, EPOCH) * 1e6

        return step

    names = {"base": None, "K=1": 1, f"K={sizes.K}": sizes.K, f"K={5 * sizes.K}": 5 * sizes.K}
    steppers = {name: stepper(K) for name, K in names.items()}
    times = [{name: step() for name, step in steppers.items()} for _ in range(steps)]
    return {name: statistics.mean(row[name] for row in times) for name in names}


def late_bytes_over_base(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Measures the peak memory of a late-phase iteration in excess of the optimizer alone, divided by the members' memory.

    Without θ's gradient it is a little below 1, as the base also has one of the members' optimizer states.
    """
    device = device if device.type == "cuda" else CPU
    minibatches = random_minibatches(sizes, device)

    def run(K: int | None) -> tuple[nn.Module, torch.optim.Optimizer]:
        model, optimizer = warm(sizes, device, K, minibatches)
        train(model, optimizer, minibatches)
        return model, optimizer

    base, _ = peak_bytes(lambda: run(None), device)
    late, (model, optimizer) = peak_bytes(lambda: run(sizes.K), device)
    phi = [parameter for name, parameter in model.named_parameters() if name in optimizer.members]
    state = sum(value.nbytes for p in phi for value in optimizer.state[p].values() if isinstance(value, Tensor))
    members = sizes.K * state + sum(values.nbytes for values in optimizer.members.values())  # with running statistics
    gradient = sum(p.nbytes for p in model.parameters()) - sum(p.nbytes for p in phi)
    return {
        "late_bytes_over_base": (late - base) / members,
        "late_bytes_over_base_less_theta_gradient": (late - base - gradient) / members,
        "bytes": {"late": late, "base": base, "members": members, "theta_gradient": gradient},
    }


# ------------------------------------------------------------------------------------------- data, and training as a user writes it


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

    def measure(self, name: str, bar: float, ours: Block, pil: Callable[[int], Block], gain: bool = False) -> dict[str, Any]:
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


def epoch_over_plain(name: str, bar: float, sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Measures training as in late_phase.training.loop against a careful user's own loop, with data, scaled to an epoch.

    Each of our blocks starts a new epoch, so the set-up of an epoch counts more often than it happens in training.
    """
    data, count = Data.random(sizes, device), sizes.block[name]
    batches = data.ours(memory_format(name) == torch.channels_last)
    model, late = build_as_here(name, sizes, device, sizes.K)

    def train_as_here() -> None:
        sums, correct, minibatches = EpochSums(), Classification().correct, itertools.islice(batches.epoch(0), count)
        train(model, late, minibatches, lambda loss, logits, labels: sums.add(loss, correct(logits, labels), len(labels)))
        sums.synchronize()

    def ours() -> float:
        torch.backends.cudnn.deterministic = True  # as in training
        return timed(train_as_here, device, count * sizes.batch)

    def plain(workers: int) -> Block:
        model = build(name, sizes, device)
        optimizer = torch.optim.SGD(model.parameters(), **SGD)

        def train_plainly(minibatches: Iterator) -> None:
            torch.backends.cudnn.deterministic = False  # torch's default
            total = torch.zeros((), device=device)
            minibatches = ((x.to(device, non_blocking=True), y.to(device, non_blocking=True)) for x, y in minibatches)
            train(model, optimizer, minibatches, lambda loss, *_: total.add_(loss.detach()))
            total.item()

        return data.pil(workers, count, train_plainly)

    return data.measure(f"epoch_over_plain_{name}", bar, ours, plain)
