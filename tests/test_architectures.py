"""Networks against counts and hand-picked references."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from late_phase.architectures import build


def count(name: str, channels: int, classes: int, **options: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build(name, channels, classes, **options).parameters())


@pytest.mark.parametrize(
    ("depth", "width", "classes", "expected"),
    [(28, 10, 10, 36_479_194), (28, 10, 100, 36_536_884), (28, 14, 10, 71_470_810), (28, 14, 100, 71_551_540)],
)
def test_wide_resnets_have_the_published_number_of_parameters(depth, width, classes, expected):
    assert count("wrn", 3, classes, depth=depth, width=width) == expected


def test_lenet_has_as_many_parameters_as_its_layers_add_up_to():
    convolutions = (3 * 25 + 1) * 6 + (6 * 25 + 1) * 16
    linear = (400 + 1) * 120 + (120 + 1) * 84 + (84 + 1) * 10
    norms = 2 * (6 + 16 + 120 + 84)
    assert count("lenet", 3, 10) == convolutions + linear + norms == 62_458
    assert count("lenet", 1, 10) == 62_458 - 2 * 25 * 6


def test_lenet_by_hand():
    """The layers one after the other: BatchNorm after each activation, the maximum of 2 x 2 pixels, no activation at the end."""
    torch.manual_seed(0)
    model = build("lenet", 3, 7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
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
        return x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))

    out = pool(norm(convolve(x, "conv1").clamp(min=0), "bn1"))
    out = pool(norm(convolve(out, "conv2").clamp(min=0), "bn2")).flatten(1)
    out = norm((out @ w["fc1.weight"].T + w["fc1.bias"]).clamp(min=0), "bn3")
    out = norm((out @ w["fc2.weight"].T + w["fc2.bias"]).clamp(min=0), "bn4")
    out = out @ w["head.weight"].T + w["head.bias"]
    torch.testing.assert_close(model(x), out, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("depth", "width"), [(10, 2), (16, 1), (22, 2)])
def test_wide_resnet_is_the_one_in_pytorch_ood(depth, width, training):
    """Features and running statistics bit for bit, the rest to rounding: it adds up the features' mean in another order."""
    reference_class = pytest.importorskip("pytorch_ood.model").WideResNet
    torch.manual_seed(0)
    ours, theirs = build("wrn", 3, 10, depth=depth, width=width), reference_class(10, depth, width, drop_rate=0.0)
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(values, 0.5, 1.5)

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
    out = [model.train(training)(images) for model in (ours, theirs)]
    assert torch.equal(*features)
    torch.testing.assert_close(*out, rtol=1e-12, atol=1e-12)
    for one in out:
        one.square().sum().backward()
    parameters, expected = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert len(parameters) == len(expected)
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.grad, expected[renamed(name)].grad, rtol=1e-9, atol=1e-9)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[renamed(name)]), name


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


@pytest.mark.parametrize(("name", "options"), [("lenet", {}), ("wrn", {"depth": 10, "width": 1})])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_seeds(name, options, channels):
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(build(name, channels, 7, **options))
    images = torch.randn(2, channels, 32, 32)
    out = [model.eval()(images) for model in models]
    assert out[0].shape == (2, 7)
    assert torch.equal(out[0], out[1]) and not torch.equal(out[0], out[2])


@pytest.mark.parametrize("name", ["lenet", "wrn"])
def test_the_input_is_left_alone_and_memory_format_does_not_matter(name):
    model = build(name, 3, 5, **({"depth": 10, "width": 1} if name == "wrn" else {})).double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    before = images.clone()
    out = model(images)
    assert torch.equal(images, before)
    model = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(images.contiguous(memory_format=torch.channels_last)), out, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (33, 20), (64, 64)])
def test_wide_resnets_take_images_of_any_size(size):
    assert build("wrn", 3, 5, depth=10, width=1).eval()(torch.randn(2, 3, *size)).shape == (2, 5)


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
    with pytest.raises(ValueError, match=rf"architecture\.width={width} is no widening factor: .*\.$"):
        build("wrn", 3, 10, depth=10, width=width)
