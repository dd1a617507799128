"""What all workloads share: their sizes, the models as we train them, and the training loop of both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from late_phase import LatePhase, architectures, batchnorm, head
from late_phase.config.choices import CHOICES
from late_phase.optimization import optimizers
from late_phase.support.devices import autocast, cores, has_bf16
from late_phase.support.timing import EPOCH

CPU = torch.device("cpu")
SGD = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}

Minibatches = Iterable[tuple[Tensor, Tensor]]


def worker_choices() -> tuple[int, ...]:
    """Returns 0, the powers of two, and the number of cores that this process may use. With two cores these are 0, 1 and 2."""
    most = cores()
    return tuple(sorted({0, most, *(2**i for i in range(most.bit_length()) if 2**i < most)}))


@dataclass(frozen=True)
class Sizes:
    """The sizes of the workloads. The bars hold for those of :meth:`on`; tests use smaller sizes.

    Attributes:
        pairs: pairs of blocks in each measurement.
        depth, width: of the wide residual network.
        batch: images, or streams of text, in a minibatch.
        images: random images of an epoch.
        Ks: numbers of members that are compared with the base.
        K: members in all other measurements, and minibatches in a block.
        symbols, units, length: of the language model and its segments.
        block: minibatches in a block of ``epoch_over_plain``, by architecture.
        matrix: rows and columns of the matrices whose product gives the machine's rate.
        photos: JPEGs of the ImageNet loader.
        workers: numbers of worker processes that a DataLoader may have.
    """

    pairs: int = 6
    depth: int = 16
    width: int = 2
    batch: int = 128
    images: int = EPOCH
    Ks: tuple[int, ...] = (1, 10, 50)
    K: int = 10
    symbols: int = 205
    units: int = 500
    length: int = 100
    block: dict[str, int] = field(default_factory=lambda: {"wrn": 5, "lenet": 50})
    matrix: int = 2048
    photos: int = 256
    workers: tuple[int, ...] = field(default_factory=worker_choices)

    @classmethod
    def on(cls, device: torch.device, pairs: int = 6) -> Sizes:
        """Returns the sizes for a device: WRN 16-2 on a CPU, the paper's WRN 28-10 elsewhere."""
        if device.type == "cpu":
            return cls(pairs)
        return cls(pairs, depth=28, width=10, block={"wrn": 20, "lenet": 200}, matrix=8192)


def precisions(device: torch.device) -> tuple[str, ...]:
    """Returns fp32, and bf16 if the device computes with it in hardware."""
    return ("fp32", "bf16") if has_bf16(device) else ("fp32",)


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


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    minibatches: Minibatches,
    record: Callable = lambda *_: None,
    how: Callable[[], AbstractContextManager] = nullcontext,
) -> None:
    """Trains with the same loop on both sides. LatePhase doesn't need ``zero_grad``, but the time of it counts.

    Args:
        how: makes the context of forward passes.
    """
    for inputs, labels in minibatches:
        with how():
            logits = model(inputs)
            loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        record(loss, logits, labels)


def forward_in(precision: str, device: torch.device) -> Callable[[], AbstractContextManager]:
    """Returns what makes the context of forward passes in training with ``compute.precision``."""
    return partial(autocast, device, precision)


def random_minibatches(sizes: Sizes, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    inputs = torch.randn(sizes.K, sizes.batch, 3, 32, 32).to(device)
    return [(x.to(memory_format=memory_format("wrn")), torch.randint(10, (sizes.batch,)).to(device)) for x in inputs]


def warm(
    sizes: Sizes, device: torch.device, K: int | None, minibatches: list[tuple[Tensor, Tensor]], **options: Any
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Returns a new WRN and its optimizer after one minibatch, which creates the momentum. With ``K`` it then spawns."""
    model, optimizer = build_as_here("wrn", sizes, device, K)
    train(model, optimizer, minibatches[:1], **options)
    if K is not None:
        optimizer.spawn()
    return model, optimizer
