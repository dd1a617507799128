"""Max pooling against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from late_phase.layers.max_pool import MaxPool2x2


@pytest.mark.parametrize("shape", [(3, 6, 28, 28), (2, 16, 10, 10), (1, 1, 2, 2), (2, 3, 5, 5), (6, 4, 4), (0, 3, 4, 4)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_it_is_torchs_to_the_same_bytes(shape, channels_last):
    """Among few values there are many ties: which of equal values gets the gradient shows."""
    torch.manual_seed(0)
    images = torch.randint(3, shape).float() - 1
    if channels_last and len(shape) == 4:
        images = images.contiguous(memory_format=torch.channels_last)
    results = []
    for pool in (MaxPool2x2(), lambda images: F.max_pool2d(images, 2)):
        own = images.clone().requires_grad_()
        pooled = pool(own)
        pooled.backward(torch.arange(pooled.numel(), dtype=torch.float32).view(pooled.shape) + 1)
        results.append((pooled.detach(), own.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_it_is_torchs_layer_with_torchs_type_and_precision():
    images = torch.randn(2, 3, 8, 8, dtype=torch.bfloat16)
    assert torch.equal(MaxPool2x2()(images), F.max_pool2d(images, 2)) and isinstance(MaxPool2x2(), torch.nn.MaxPool2d)
    assert torch.autograd.gradcheck(MaxPool2x2(), torch.randn(2, 1, 4, 6, dtype=torch.float64, requires_grad=True))


def test_it_goes_with_the_transforms_of_torch():
    """Differentiated twice, and under ``vmap``, as flatness does it."""
    images = torch.randn(5, 2, 3, 4, 4, dtype=torch.float64)
    gradient = torch.func.grad(lambda x: MaxPool2x2()(x).square().sum())
    expected = torch.func.grad(lambda x: F.max_pool2d(x, 2).square().sum())
    assert torch.equal(torch.func.vmap(MaxPool2x2())(images), torch.stack([F.max_pool2d(x, 2) for x in images]))
    assert torch.equal(torch.func.vmap(gradient)(images), torch.stack([expected(x) for x in images]))
    assert torch.autograd.gradgradcheck(MaxPool2x2(), images[0].requires_grad_())
