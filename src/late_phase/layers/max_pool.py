"""Max pooling of 2 x 2 windows with a CPU's vector instructions, which torch's own layer uses for ``channels_last`` only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class MaxPool2x2(nn.MaxPool2d):
    """Max pooling ``[..., 2 height, 2 width]`` -> ``[..., height, width]``, about twice as fast as torch's layer on a CPU.

    Results equal torch's to the byte if the gradients are finite. On another device, in another memory format, for an odd size or
    under a compiler, this is torch's layer.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, images: Tensor) -> Tensor:
        even = images.shape[-1] % 2 == images.shape[-2] % 2 == 0
        if images.is_cpu and images.is_contiguous() and even and not torch.compiler.is_compiling():
            return _MaxPool2x2.apply(images)[0]
        return super().forward(images)


class _MaxPool2x2(torch.autograd.Function):
    """Takes the larger of two columns, then of two rows. The first of equal values, row by row, gets the gradient, as in torch."""

    generate_vmap_rule = True

    @staticmethod
    def forward(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        left, right = images[..., 0::2], images[..., 1::2]
        columns = torch.maximum(left, right)
        top, bottom = columns[..., 0::2, :], columns[..., 1::2, :]
        return torch.maximum(top, bottom), right > left, bottom > top

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> Tensor:
        images, right, bottom = ctx.saved_tensors
        lower = gradient * bottom
        columns = torch.empty_like(right, dtype=gradient.dtype)
        columns[..., 0::2, :] = gradient - lower
        columns[..., 1::2, :] = lower
        odd = columns * right
        of_images = torch.empty_like(images)
        of_images[..., 0::2] = columns - odd
        of_images[..., 1::2] = odd
        return of_images
