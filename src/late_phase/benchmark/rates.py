"""The share of the machine's own rates that training reaches: its matrix rate, and the rate of convolutions by themselves."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from late_phase.benchmark.workloads import Minibatches, Sizes, forward_in, memory_format, random_minibatches, train, warm
from late_phase.support.timing import Block, measure, timed

TERA = 1e12
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRODUCTS = 10
"""Matrix products in a block. They take about as long as the minibatches that they are compared with."""


@dataclass(frozen=True)
class Convolution:
    """The shapes of a convolution.

    Attributes:
        images: ``[examples, channels, height, width]`` of its inputs.
        weight: ``[channels out, channels in, height, width]``.
        stride, padding: in rows and columns.
        of_inputs: whether the backward pass has a gradient of the inputs. The first layer's hasn't.
    """

    images: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, int]
    padding: tuple[int, int]
    of_inputs: bool

    @property
    def flops(self) -> int:
        """Returns the operations of a forward and a backward pass; a multiplication and an addition are two."""
        sizes = zip(self.images[2:], self.weight[2:], self.stride, self.padding, strict=True)
        pixels = prod((length + 2 * padding - kernel) // stride + 1 for length, kernel, stride, padding in sizes)
        return 2 * self.images[0] * pixels * prod(self.weight) * (3 if self.of_inputs else 2)


def convolutions(model: nn.Module, inputs: Tensor) -> Counter[Convolution]:
    """Counts the convolutions in a forward pass on ``inputs`` by their shapes.

    They have no groups and no dilation, like those of our models. Biases, which cost next to nothing, are left out.
    """
    found: Counter[Convolution] = Counter()

    def note(layer: nn.Conv2d, arguments: tuple[Tensor], _: Tensor) -> None:
        shapes = tuple(arguments[0].shape), tuple(layer.weight.shape)
        found[Convolution(*shapes, layer.stride, layer.padding, arguments[0].requires_grad)] += 1

    hooks = [layer.register_forward_hook(note) for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    model(inputs)
    for hook in hooks:
        hook.remove()
    return found


class Isolated:
    """Each convolution of a model by itself: its forward and backward pass, on random numbers.

    Attributes:
        counted: shapes -> passes in a block.
        seconds: shapes -> time of one forward and backward pass in each block, in seconds per 10^12 operations.
    """

    def __init__(
        self, counted: Counter[Convolution], dtype: torch.dtype, layout: torch.memory_format, device: torch.device
    ) -> None:
        self.counted, self.layout, self.device = counted, layout, device
        self.flops = sum(count * shape.flops for shape, count in counted.items())
        self.seconds: dict[Convolution, list[float]] = {shape: [] for shape in counted}
        self._passes = {shape: self._pass(shape, dtype) for shape in counted}

    def _pass(self, shape: Convolution, dtype: torch.dtype) -> Callable[[], object]:
        made = {"device": self.device, "dtype": dtype}
        layout = {"memory_format": self.layout}
        inputs = torch.randn(shape.images, **made).to(**layout).requires_grad_(shape.of_inputs)
        weight = torch.randn(shape.weight, **made).to(**layout).requires_grad_()
        wanted = (inputs, weight) if shape.of_inputs else (weight,)
        gradient = torch.randn_like(F.conv2d(inputs, weight, None, shape.stride, shape.padding))

        def once() -> object:
            outputs = F.conv2d(inputs, weight, None, shape.stride, shape.padding)
            return torch.autograd.grad(outputs, wanted, gradient)

        return once

    def _run(self, shape: Convolution, count: int) -> None:
        for _ in range(count):
            self._passes[shape]()

    def block(self) -> float:
        """Runs all counted convolutions, and returns the seconds per 10^12 operations."""
        total = 0.0
        for shape, count in self.counted.items():
            flops = count * shape.flops
            per_tera = timed(partial(self._run, shape, count), self.device, flops, TERA)
            self.seconds[shape].append(per_tera)
            total += per_tera * flops
        return total / self.flops

    def table(self) -> list[dict[str, Any]]:
        """Returns the shapes with their number in the model, operations of one in 10^9, and median rate in 10^9 a second."""
        return [
            asdict(shape)
            | {"count": count, "gflop": shape.flops / 1e9, "gflop_per_second": 1e3 / statistics.median(self.seconds[shape])}
            for shape, count in self.counted.items()
        ]


def training(sizes: Sizes, precision: str, device: torch.device) -> tuple[nn.Module, Minibatches, Block]:
    """Returns a WRN in its late phase, its minibatches, and a block of a few of them in seconds per 10^12 operations."""
    minibatches, how = random_minibatches(sizes, device)[: sizes.block["wrn"]], forward_in(precision, device)
    model, late = warm(sizes, device, sizes.K, minibatches, how=how)
    with FlopCounterMode(display=False) as counter:
        train(model, late, minibatches, how=how)
    flops = counter.get_total_flops()
    return model, minibatches, lambda: timed(lambda: train(model, late, minibatches, how=how), device, flops, TERA)


def wrn_over_matrix(precision: str, bar: float | None, sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Measures the rate of training, all of it, over the rate of a product of two large matrices."""
    a, b = (torch.randn(sizes.matrix, sizes.matrix, device=device, dtype=DTYPES[precision]) for _ in range(2))

    def multiplied() -> float:
        return timed(lambda: [a @ b for _ in range(PRODUCTS)], device, PRODUCTS * 2 * sizes.matrix**3, TERA)

    _, _, ours = training(sizes, precision, device)
    return measure(f"wrn_over_matrix_{precision}", bar, ours, multiplied, sizes.pairs, gain=True) | {"matrix": sizes.matrix}


def wrn_over_convolutions(precision: str, bar: float | None, sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Measures the rate of training, all of it, over the rate that convolutions of its own shapes reach in isolation."""
    model, minibatches, ours = training(sizes, precision, device)
    isolated = Isolated(convolutions(model, minibatches[0][0]), DTYPES[precision], memory_format("wrn"), device)
    record = measure(f"wrn_over_convolutions_{precision}", bar, ours, isolated.block, sizes.pairs, gain=True)
    return record | {"convolutions": isolated.table()}
