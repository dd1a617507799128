"""PyramidNet against pytorchcv's and its formulas."""

from __future__ import annotations

import pytest
import torch
from networks import assert_same_computation, count, randomize_norms
from torch import nn

from late_phase.architectures import build
from late_phase.layers.shakedrop import ShakeDrop


@pytest.mark.parametrize(("classes", "expected"), [(10, 28_485_477), (100, 28_511_307)])
def test_pyramidnet_110_with_alpha_270_is_as_large_as_pytorchcv_says(classes, expected):
    assert count("pyramidnet", 3, classes) == expected
    assert count("pyramidnet", 3, classes, shakedrop=0.0) == expected


@pytest.mark.parametrize(("depth", "alpha"), [(8, 20), (20, 48), (26, 84), (110, 270)])
@pytest.mark.parametrize("classes", [10, 100])
def test_pyramidnets_have_the_parameters_of_those_in_pytorchcv(depth, alpha, classes):
    reference = pytest.importorskip("pytorchcv.models.pyramidnet_cifar", reason="pytorchcv has the reference").get_pyramidnet_cifar
    with torch.device("meta"):
        theirs = reference(num_classes=classes, blocks=depth, alpha=alpha, bottleneck=False)
    assert count("pyramidnet", 3, classes, depth=depth, alpha=alpha) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("depth", "alpha"), [(8, 20), (14, 0), (20, 9)])
def test_pyramidnet_is_the_one_in_pytorchcv(depth, alpha, training):
    """Without ShakeDrop. Features and running statistics bit for bit, the rest to rounding."""
    reference = pytest.importorskip("pytorchcv.models.pyramidnet_cifar", reason="pytorchcv has the reference").get_pyramidnet_cifar
    torch.manual_seed(0)
    ours = build("pyramidnet", 3, 10, depth=depth, alpha=alpha, shakedrop=0.0)
    theirs = reference(num_classes=10, blocks=depth, alpha=alpha, bottleneck=False)
    randomize_norms(ours)
    inner = {"bn1": "body.conv1.bn", "conv1": "body.conv1.conv", "bn2": "body.conv2.bn", "conv2": "body.conv2.conv", "bn3": "bn"}
    outer = {"conv": "features.init_block.conv", "bn1": "features.init_block.bn", "bn2": "features.post_activ.bn", "head": "output"}

    def renamed(name: str) -> str:
        parts = name.split(".")
        if parts[0] != "groups":
            return ".".join([outer[parts[0]], *parts[1:]])
        return ".".join([f"features.stage{int(parts[1]) + 1}.unit{int(parts[2]) + 1}", inner[parts[3]], *parts[4:]])

    ours, theirs = ours.double().train(training), theirs.double().train(training)
    theirs.load_state_dict({renamed(name): value for name, value in ours.state_dict().items()})
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    features = []
    ours.bn2.register_forward_hook(lambda module, inputs, output: features.append(output.clamp(min=0)))
    theirs.features.post_activ.bn.register_forward_hook(lambda module, inputs, output: features.append(output.clamp(min=0)))
    out = [model(images) for model in (ours, theirs)]
    assert torch.equal(*features)
    assert_same_computation(ours, theirs, out, renamed)


def test_pyramidnet_by_hand():
    """A block at stride 2: the shortcut takes the mean of 2 x 2 pixels, and zeros for the channels that are new."""
    torch.manual_seed(0)
    model = build("pyramidnet", 3, 5, depth=8, alpha=9, shakedrop=0.5).double().eval()
    randomize_norms(model)
    block = model.groups[1][0]
    assert (block.conv1.in_channels, block.conv1.out_channels, block.conv1.stride) == (19, 22, (2, 2))
    x = torch.randn(2, 19, 6, 4, dtype=torch.float64)
    branch = block.bn3(block.conv2(block.bn2(block.conv1(block.bn1(x))).clamp(min=0)))
    shortcut = torch.zeros_like(branch)
    shortcut[:, :19] = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    torch.testing.assert_close(block(x), (1 - 2 / 3 * 0.5) * branch + shortcut, rtol=1e-12, atol=1e-12)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    features = model.bn2(model.groups(model.bn1(model.conv(images)))).clamp(min=0)
    torch.testing.assert_close(model(images), model.head(features.mean((2, 3))), rtol=1e-12, atol=1e-12)


def test_the_widths_of_a_pyramidnet_are_rounded_each_by_itself():
    """16 + 20 / 3 = 22.7, 16 + 40 / 3 = 29.3, 36."""
    model = build("pyramidnet", 3, 5, depth=8, alpha=20)
    assert [group[0].conv2.out_channels for group in model.groups] == [23, 29, 36]


def test_survival_decays_linearly_to_the_last_block():
    with torch.device("meta"):
        layers = [module for module in build("pyramidnet", 3, 100).modules() if isinstance(module, ShakeDrop)]
        without = build("pyramidnet", 3, 100, depth=14, shakedrop=0.0)
    assert [layer.survival for layer in layers] == pytest.approx([1 - l / 54 * 0.5 for l in range(1, 55)])  # noqa: E741
    assert not any(isinstance(module, ShakeDrop) for module in without.modules())


def test_pyramidnet_starts_as_its_authors_say():
    """He et al.'s initialization of convolutions by what comes out, no bias there, and BatchNorm as the identity."""
    torch.manual_seed(0)
    model = build("pyramidnet", 3, 10, depth=14, alpha=60)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            n, fan_out = module.weight.numel(), module.out_channels * 9
            assert module.bias is None
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=5 / (2 * n) ** 0.5)
            assert abs(module.weight.mean().item()) < 5 * (2 / fan_out / n) ** 0.5
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
    assert (model.head.bias == 0).all()


@pytest.mark.parametrize("depth", [-4, 0, 2, 9, 10, 109, 112])
def test_depths_of_pyramidnets_that_do_not_exist(depth):
    with pytest.raises(ValueError, match=rf"^architecture\.depth={depth} is not 6 n \+ 2: choose 8, .*\.$"):
        build("pyramidnet", 3, 10, depth=depth)


def test_pyramidnets_do_not_narrow():
    with pytest.raises(ValueError, match=r"^architecture\.alpha=-1 is out of range: choose .*\.$"):
        build("pyramidnet", 3, 10, depth=8, alpha=-1)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_rates_of_shakedrop_that_do_not_exist(rate):
    with pytest.raises(ValueError, match=rf"^architecture\.shakedrop={rate} is out of range: choose .*\.$"):
        build("pyramidnet", 3, 10, depth=8, shakedrop=rate)
