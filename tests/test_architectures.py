"""Networks against counts and hand-picked references."""

from __future__ import annotations

import time

import pytest
import torch
from networks import assert_same_computation, count, randomize_norms
from torch import Tensor, nn
from torchvision.models import get_model_weights

from late_phase.architectures import build, parameters

SMALL: dict[str, dict[str, float]] = {"lenet": {}, "wrn": {"depth": 10, "width": 1}, "pyramidnet": {"depth": 8, "alpha": 6}}


@pytest.mark.parametrize(
    ("name", "sizes", "options"),
    [
        ("lenet", (3, 10), {}),
        ("wrn", (3, 100), {"depth": 28, "width": 2}),
        ("wrn", (1, 7), {"depth": 304, "width": 1}),
        ("pyramidnet", (3, 10), {"depth": 20, "alpha": 48}),
        ("pyramidnet", (3, 10), {"depth": 302, "alpha": 48}),
        ("resnet50", (3, 10), {}),
        ("densenet161", (3, 10), {}),
        ("vit", (3, 10), {}),
        ("lstm", (205,), {"units": 500}),
        ("lstm", (30,), {"units": 5, "embedding": 1000}),
        ("gpt", (65,), {}),
        ("gpt", (30,), {"depth": 302, "width": 8, "heads": 2, "context": 16}),
    ],
)
def test_parameters_are_counted_without_memory_and_random_numbers(name, sizes, options):
    """Of a network of more than twice 120 layers in proportion, to a fiftieth."""
    before = torch.get_rng_state()
    counted = parameters(name, *sizes, **options)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.device("meta"):
        expected = sum(p.numel() for p in build(name, *sizes, **options).parameters())
    assert counted == (expected if options.get("depth", 0) <= 240 else pytest.approx(expected, rel=0.02))


@pytest.mark.parametrize(
    ("name", "sizes", "options"),
    [
        ("wrn", (3, 10), {"width": 10**10}),
        ("wrn", (3, 10), {"width": 10**30}),
        ("pyramidnet", (3, 10), {"alpha": 10**400}),
        ("lstm", (205,), {"units": 10**10}),
        ("lstm", (205,), {"embedding": 10**30}),
        ("gpt", (205,), {"width": 4 * 10**10}),
        ("gpt", (205,), {"context": 10**30}),
    ],
)
def test_more_parameters_than_can_be_counted_are_at_least_as_many(name, sizes, options):
    assert parameters(name, *sizes, **options) == 2**63


def test_very_deep_networks_are_counted_at_once():
    began = time.process_time()
    block = parameters("wrn", 3, 10, depth=226, width=1) / 222
    assert parameters("wrn", 3, 10, depth=6 * 10**15 + 4, width=1) == pytest.approx(6e15 * block, rel=0.05)
    assert parameters("wrn", 3, 10, depth=6 * 10**15 + 5) == 0 == parameters("lenet", 3, 10, dropout=2.0)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("depth", "width", "classes", "expected"),
    [(28, 10, 10, 36_479_194), (28, 10, 100, 36_536_884), (28, 14, 10, 71_470_810), (28, 14, 100, 71_551_540)],
)
def test_wide_resnets_have_the_published_number_of_parameters(depth, width, classes, expected):
    assert count("wrn", 3, classes, depth=depth, width=width) == expected


@pytest.mark.parametrize(("name", "expected"), [("resnet50", 25_557_032), ("resnet152", 60_192_808), ("densenet161", 28_681_000)])
def test_imagenet_models_have_the_published_number_of_parameters(name, expected):
    assert count(name, 3, 1000) == expected == get_model_weights(name).IMAGENET1K_V1.meta["num_params"]
    features = {"densenet161": 2208}.get(name, 2048)
    assert count(name, 3, 10) == expected - 990 * (features + 1)


def test_lenet_has_as_many_parameters_as_its_layers_add_up_to():
    convolutions = (3 * 25 + 1) * 6 + (6 * 25 + 1) * 16
    linear = (400 + 1) * 120 + (120 + 1) * 84 + (84 + 1) * 10
    norms = 2 * (6 + 16 + 120 + 84)
    assert count("lenet", 3, 10) == convolutions + linear + norms == 62_458
    assert count("lenet", 1, 10) == 62_458 - 2 * 25 * 6


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("pooling_first", [False, True])
def test_lenet_by_hand(pooling, pooling_first):
    """The layers one after the other: BatchNorm after each activation, pooling of 2 x 2 pixels, no activation at the end."""
    torch.manual_seed(0)
    model = build("lenet", 3, 7, pooling=pooling, pooling_first=pooling_first, dropout=0.3)
    randomize_norms(model)
    w = model.eval().double().state_dict()
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            w[f"{name}.{key}"].view(1, -1, *[1] * (x.dim() - 2)) for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def convolve(x: Tensor, name: str) -> Tensor:
        windows = x.unfold(2, 5, 1).unfold(3, 5, 1)
        return torch.einsum("ncyxhw,ochw->noyx", windows, w[f"{name}.weight"]) + w[f"{name}.bias"].view(1, -1, 1, 1)

    def pool(x: Tensor) -> Tensor:
        windows = x.unfold(2, 2, 2).unfold(3, 2, 2)
        return windows.amax((4, 5)) if pooling == "max" else windows.mean((4, 5))

    def layer(x: Tensor, number: int) -> Tensor:
        x, name = convolve(x, f"conv{number}"), f"bn{number}"
        return norm(pool(x).clamp(min=0), name) if pooling_first else pool(norm(x.clamp(min=0), name))

    out = layer(layer(x, 1), 2).flatten(1)
    out = norm((out @ w["fc1.weight"].T + w["fc1.bias"]).clamp(min=0), "bn3")
    out = norm((out @ w["fc2.weight"].T + w["fc2.bias"]).clamp(min=0), "bn4")
    out = out @ w["head.weight"].T + w["head.bias"]
    torch.testing.assert_close(model(x), out, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("depth", "width", "dropout"), [(10, 2, 0.0), (16, 1, 0.2), (22, 1, 0.0), (10, 1, 0.5)])
def test_wide_resnet_is_the_one_in_pytorch_ood(depth, width, dropout, training):
    """Features and running statistics bit for bit, the rest to rounding: it adds up the features' mean in another order."""
    reference = pytest.importorskip("pytorch_ood.model", reason="pytorch-ood has the reference").WideResNet
    torch.manual_seed(0)
    ours = build("wrn", 3, 10, depth=depth, width=width, dropout=dropout)
    theirs = reference(10, depth, width, drop_rate=dropout)
    randomize_norms(ours)

    def renamed(name: str) -> str:
        parts = name.split(".")
        if parts[0] == "groups":
            parts[:2] = [f"block{int(parts[1]) + 1}", "layer"]
        head = {"conv": "conv1", "bn": "bn1", "head": "fc"}.get(parts[0], parts[0])
        return ".".join([head, *parts[1:]]).replace(".shortcut.", ".convShortcut.")

    ours, theirs = ours.double(), theirs.double()
    theirs.load_state_dict({renamed(name): value for name, value in ours.state_dict().items()})
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    features = []
    ours.bn.register_forward_hook(lambda module, inputs, output: features.append(output.clamp(min=0)))
    theirs.bn1.register_forward_hook(lambda module, inputs, output: features.append(output.clamp(min=0)))
    out = []
    for model in (ours, theirs):
        torch.manual_seed(1)  # dropout draws the same numbers at the same places
        out.append(model.train(training)(images))
    assert torch.equal(*features)
    assert_same_computation(ours, theirs, out, renamed)


@pytest.mark.parametrize("name", ["lenet", "wrn"])
def test_dropout_changes_training_alone(name):
    """With none, and in eval mode, nothing: keys, fresh weights, outputs and random numbers drawn stay what they were."""
    images, small = torch.randn(8, 3, 32, 32), SMALL[name]
    models = []
    for options in ({}, {"dropout": 0.0}, {"dropout": 0.5}):
        torch.manual_seed(0)
        models.append(build(name, 3, 5, **small, **options))
    states = [model.state_dict() for model in models]
    assert list(states[0]) == list(states[1]) == list(states[2]) and not any("dropout" in key for key in states[0])
    out = [model.eval()(images) for model in models]
    assert torch.equal(out[0], out[1]) and torch.equal(out[0], out[2])

    def trained(model: nn.Module, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model.train()(images)

    assert torch.equal(trained(models[0], 0), trained(models[1], 1))
    assert torch.equal(trained(models[2], 0), trained(models[2], 0))
    assert not torch.equal(trained(models[2], 0), trained(models[2], 1))


def test_dropout_comes_after_the_first_convolution_of_each_block_of_a_wide_resnet():
    """Of its activations the second convolution sees twice the one half."""
    torch.manual_seed(0)
    model = build("wrn", 3, 5, depth=16, width=1, dropout=0.5)
    before, after = [], []
    for block in (block for group in model.groups for block in group):
        block.bn2.register_forward_hook(lambda module, inputs, output: before.append(output.clamp(min=0)))
        block.conv2.register_forward_hook(lambda module, inputs, output: after.append(inputs[0]))
    model(torch.randn(8, 3, 8, 8))
    assert len(before) == len(after) == 6
    for activations, seen in zip(before, after, strict=True):
        kept = seen != 0
        assert torch.equal(seen[kept], 2 * activations[kept])
        active = activations != 0
        assert abs(kept[active].double().mean() - 0.5) < 4 * 0.5 / active.sum() ** 0.5


def test_dropout_comes_before_the_second_linear_layer_of_lenet():
    """Which sees twice the activations of one half of the units."""
    torch.manual_seed(0)
    model, seen = build("lenet", 3, 5, dropout=0.5), []
    model.bn3.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model.fc2.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model(torch.randn(8, 3, 32, 32))
    before, after = seen
    kept = after != 0
    assert torch.equal(after[kept], 2 * before[kept])
    assert abs(kept.double().mean() - 0.5) < 4 * 0.5 / kept.numel() ** 0.5


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5, float("nan")])
@pytest.mark.parametrize("name", ["lenet", "wrn"])
def test_dropout_that_is_no_probability(name, dropout):
    with pytest.raises(ValueError, match=rf"^architecture\.dropout={dropout} is out of range: choose .*\.$"):
        build(name, 3, 5, **SMALL[name], dropout=dropout)


def test_wide_resnet_starts_as_its_authors_say():
    """He et al.'s initialization of convolutions and the last layer, no bias there, and BatchNorm as the identity."""
    torch.manual_seed(0)
    model = build("wrn", 3, 10, depth=10, width=4)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            n = module.weight.numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=5 / (2 * n) ** 0.5)
            assert abs(module.weight.mean().item()) < 5 * (2 / fan_in / n) ** 0.5
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
    assert (model.head.bias == 0).all()


@pytest.mark.parametrize("name", ["lenet", "wrn", "pyramidnet"])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_seeds(name, channels):
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(build(name, channels, 7, **SMALL[name]))
    images = torch.randn(2, channels, 32, 32)
    out = [model.eval()(images) for model in models]
    assert out[0].shape == (2, 7)
    assert torch.equal(out[0], out[1]) and not torch.equal(out[0], out[2])


@pytest.mark.parametrize("name", ["lenet", "wrn", "pyramidnet"])
def test_the_input_is_left_alone_and_memory_format_does_not_matter(name):
    model = build(name, 3, 5, **SMALL[name]).double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    before = images.clone()
    out = model(images)
    assert torch.equal(images, before)
    model = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(images.contiguous(memory_format=torch.channels_last)), out, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["wrn", "pyramidnet"])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (33, 20), (64, 64)])
def test_residual_networks_take_images_of_any_size(name, size):
    assert build(name, 3, 5, **SMALL[name]).eval()(torch.randn(2, 3, *size)).shape == (2, 5)


@pytest.mark.parametrize("name", ["lenet", "wrn", "pyramidnet"])
def test_training_in_mixed_precision_and_channels_last(name):
    torch.manual_seed(0)
    model = build(name, 3, 5, **SMALL[name]).to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images)
    assert out.dtype == torch.bfloat16 and out.shape == (4, 5)
    out.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["wrn", "pyramidnet"])
def test_they_compile_into_one_graph(name):
    torch.manual_seed(0)
    options = {"wrn": {"dropout": 0.2}, "pyramidnet": {"shakedrop": 0.5}}[name]
    model, images = build(name, 3, 5, **SMALL[name], **options), torch.randn(4, 3, 8, 8)
    torch.compile(model, fullgraph=True, backend="eager")(images).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["resnet50", "resnet152", "densenet161"])
@pytest.mark.parametrize("channels", [1, 4])
def test_imagenet_models_take_images_in_colour_only(name, channels):
    with pytest.raises(ValueError, match=rf"^architecture\.name={name} takes images of 3 channels, not {channels}: choose .*\.$"):
        build(name, channels, 10)


def test_resnet50_takes_colour_images():
    torch.manual_seed(0)
    assert build("resnet50", 3, 7).eval()(torch.randn(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("size", [(28, 28), (32, 64), (64, 64)])
def test_lenet_takes_32_pixels_only(size):
    with pytest.raises(ValueError, match=rf"32 x 32 pixels, not {size[0]} x {size[1]}: set dataset\.image_size=32\.$"):
        build("lenet", 3, 5)(torch.randn(2, 3, *size))


@pytest.mark.parametrize("depth", [-2, 0, 4, 9, 11, 27, 29])
def test_depths_that_do_not_exist(depth):
    with pytest.raises(ValueError, match=rf"architecture\.depth={depth} is not 6 n \+ 4: choose 10, .*\.$"):
        build("wrn", 3, 10, depth=depth, width=1)


@pytest.mark.parametrize("width", [0, -1])
def test_widths_that_do_not_exist(width):
    with pytest.raises(ValueError, match=rf"architecture\.width={width} is out of range: choose .*\.$"):
        build("wrn", 3, 10, depth=10, width=width)
