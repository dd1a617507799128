"""Architectures beside those of other libraries: how many parameters they have, and whether they compute the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from late_phase.architectures import build


def assert_same_computation(ours: nn.Module, theirs: nn.Module, out: Sequence[Tensor], renamed: Callable[[str], str]) -> None:
    """Equal outputs ``out``, gradients and state; ``renamed`` gives their name of a tensor of ours."""
    torch.testing.assert_close(*out, rtol=1e-12, atol=1e-12)
    for one in out:
        one.square().sum().backward()
    parameters, expected = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert len(parameters) == len(expected)
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.grad, expected[renamed(name)].grad, rtol=1e-9, atol=1e-9)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[renamed(name)]), name


def count(name: str, channels: int, classes: int, **options: float) -> int:
    """Parameters of an architecture."""
    with torch.device("meta"):
        return sum(p.numel() for p in build(name, channels, classes, **options).parameters())


def randomize_norms(model: nn.Module) -> None:
    """Gives all BatchNorm layers scales, shifts and statistics that can be told from those of a fresh one."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
