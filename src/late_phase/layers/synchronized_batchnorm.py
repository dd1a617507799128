"""BatchNorm over the examples of several processes, each of which has a part of the minibatch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.overrides import TorchFunctionMode


class SynchronizedBatchNorm(TorchFunctionMode):
    """Makes BatchNorm normalize with the statistics of the whole minibatch, whose parts the processes have, within its block.

    The model needs no other layers. torch's own ``SyncBatchNorm`` computes on GPUs only, and replaces the layers.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        return (_batch_norm if function is torch.nn.functional.batch_norm else function)(*args, **(kwargs or {}))


def _batch_norm(
    inputs: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """:func:`torch.nn.functional.batch_norm`; in training over the examples of all processes."""
    if not training:
        return torch.batch_norm(inputs, weight, bias, running_mean, running_var, False, momentum, eps, torch.backends.cudnn.enabled)
    x = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    others = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    count = _Sum.apply(x.new_full((), x.numel() / x.shape[1]))
    mean = _Sum.apply(x.sum(others)) / count
    centred = x - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(others)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((variance * count / (count - 1)).to(running_var), momentum)
    normalized = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        normalized = normalized * weight.view(shape)
    if bias is not None:
        normalized = normalized + bias.view(shape)
    return normalized.to(inputs.dtype)


class _Sum(torch.autograd.Function):
    """The sum over all processes. Its gradient is the sum of their gradients."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
