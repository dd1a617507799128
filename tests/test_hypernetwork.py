"""Hypernetworks against Table 7 and against sums done by hand."""

from __future__ import annotations

import copy

import models
import pytest
import torch
from models import sgd, train
from torch import Tensor, nn
from torch.func import functional_call

from late_phase.architectures import build
from late_phase.layers.hypernetwork import Hypernetwork, embeddings, generate_convolutions
from late_phase.layers.rank1 import parametrize_rank1
from late_phase.reporting.specification import generated_weights


def table_7() -> dict[str, tuple[list[int], int, list[int], list[int]]]:
    """Name in our WRN 28-10 -> Base-PS (out, height, width, in), layer group, Hnet-PS, Emb-PS."""
    rows = {"conv": ([16, 3, 3, 3], 0, [16, 3, 3, 3, 10], [10, 1])}
    rows["groups.0.0.conv1"] = ([160, 3, 3, 16], 1, [160, 3, 3, 16, 7], [7, 1])
    rows["groups.0.0.shortcut"] = ([160, 1, 1, 16], 5, [160, 1, 1, 16, 7], [7, 1])
    rows["groups.1.0.shortcut"] = ([320, 1, 1, 160], 6, [320, 1, 1, 160, 7], [7, 1])
    rows["groups.2.0.shortcut"] = ([640, 1, 1, 320], 7, [640, 1, 1, 320, 7], [7, 1])
    for stage, out in enumerate((160, 320, 640)):
        for block in range(4):
            for conv in ("conv1", "conv2"):
                name = f"groups.{stage}.{block}.{conv}"
                if name != "groups.0.0.conv1":
                    n = 1 if block == 0 and conv == "conv1" else 2
                    rows[name] = ([out, 3, 3, n * out // 2], stage + 2, [out, 3, 3, out // 2, 14], [14, n])
    return rows


def explicit(theta: Tensor, embedding: Tensor, shape: tuple[int, ...]) -> Tensor:
    """W[o, c n + j, y, x] = sum over d of θ[o, y, x, c, d] φ[d, j]."""
    weight = torch.einsum("oyxcd,dj->ocjyx", theta.view(shape), embedding)
    return weight.flatten(1, 2)


def test_wrn_28_10_is_table_7():
    with torch.device("meta"):
        model = build("wrn", 3, 10)
    others = sum(p.numel() for p in model.parameters()) - sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))
    generate_convolutions(model, torch.Generator())
    groups: dict[int, Hypernetwork] = {}
    for name, (base, group, hypernetwork, embedding) in table_7().items():
        layer = model.get_submodule(name)
        assert [layer.weight.shape[i] for i in (0, 2, 3, 1)] == base, name
        assert list(layer.parametrizations.weight[0].shape) == hypernetwork, name
        assert list(layer.parametrizations.weight.original.shape) == embedding, name
        assert groups.setdefault(group, layer.parametrizations.weight[0]) is layer.parametrizations.weight[0], name
    assert len(table_7()) == sum(isinstance(module, nn.Conv2d) for module in model.modules()) == 28
    assert len({id(hypernetwork) for hypernetwork in groups.values()}) == 8
    assert sum(hypernetwork.theta.numel() for hypernetwork in groups.values()) == 35_844_320
    names = embeddings().names(model)
    assert sum(model.get_parameter(name).numel() for name in names) == 654
    assert sum(p.numel() for p in model.parameters()) == others + 35_844_320 + 654


def test_the_specification_is_read_off_the_model():
    """In a second transcription of Table 7, by layer."""
    with torch.device("meta"):
        model = build("wrn", 3, 100)
    generate_convolutions(model, torch.Generator())
    titles, *rows = generated_weights(model)
    shapes = {row[0]: (row[2], row[4], row[5]) for row in rows}
    assert shapes == {name: tuple(map(str, (base, hnet, emb))) for name, (base, _, hnet, emb) in table_7().items()}
    pairs = {(row[3], table_7()[row[0]][1]) for row in rows}  # of our number of a group and the paper's
    assert len(pairs) == len({ours for ours, _ in pairs}) == len({papers for _, papers in pairs}) == 8
    assert rows[0][1] == "3 × [3 × 3] × 16" and len(titles) == len(rows[0])


def test_generated_weights_have_the_variance_of_kaimings():
    """Of the widest layer in a group: 2 / fan in. Also that of the first and the 1 x 1 convolutions."""
    torch.manual_seed(0)
    model = build("wrn", 3, 10, depth=28, width=4)
    generate_convolutions(model)
    fan_in = {
        name: layer.in_channels * layer.kernel_size[0] ** 2 for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)
    }
    for stage in (1, 2):
        fan_in[f"groups.{stage}.0.conv1"] *= 2  # shares the hypernetwork of the wider ones
    for name, fan in fan_in.items():
        layer = model.get_submodule(name)
        generated = layer.weight.detach()
        columns = layer.parametrizations.weight.original.detach().square().sum(0).mean()
        # Elements of a weight are independent, so their variance has a relative error of about sqrt(2 / number).
        error = 5 * (2 / generated.numel()) ** 0.5
        assert generated.var() * fan / 2 == pytest.approx(columns.item(), rel=error), name
        assert abs(generated.mean()) < 5 * generated.std() / generated.numel() ** 0.5, name
        assert 0.5 < columns < 2, name


def test_embeddings_are_pseudo_orthogonal_over_layers():
    torch.manual_seed(0)
    model = build("wrn", 3, 10, depth=28, width=1)
    generate_convolutions(model)
    wide = [f"groups.1.{block}.conv{i}" for block in range(4) for i in (1, 2) if (block, i) != (0, 1)]
    values = torch.stack([model.get_submodule(name).parametrizations.weight.original.detach() for name in wide])
    assert values.shape == (7, 14, 2)
    rows = values.flatten(1)
    torch.testing.assert_close(rows @ rows.T, (rows @ rows.T)[0, 0] * torch.eye(7), atol=1e-5, rtol=0)
    assert values.norm(dim=1).mean().item() == pytest.approx(1)
    for name in ("conv", "groups.1.0.conv1", "groups.1.0.shortcut"):
        assert model.get_submodule(name).parametrizations.weight.original.norm().item() == pytest.approx(1)


def test_forward_and_gradients_by_hand():
    torch.manual_seed(0)
    plain = models.Nested().double().eval()
    model = copy.deepcopy(plain)
    generate_convolutions(model)
    convolutions = {name: m.parametrizations.weight for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert [tuple(p.original.shape) for p in convolutions.values()] == [(10, 1), (14, 2), (14, 2)]
    weights = {f"{name}.weight": explicit(p[0].theta, p.original, p[0].shape) for name, p in convolutions.items()}
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    actual = model(x).square().sum()
    expected = functional_call(plain, weights, x).square().sum()
    torch.testing.assert_close(actual, expected)
    parameters = [tensor for p in convolutions.values() for tensor in (p[0].theta, p.original)]
    pairs = zip(torch.autograd.grad(actual, parameters), torch.autograd.grad(expected, parameters), strict=True)
    for gradient, other in pairs:
        assert gradient.abs().max() > 1e-6
        torch.testing.assert_close(gradient, other)


def test_which_convolutions_share():
    convolutions = [
        nn.Conv2d(8, 8, 3),  # the first one is alone, although it could share
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(12, 8, 3),
        nn.Conv2d(8, 8, 5),  # another kernel
        nn.Conv2d(6, 8, 3),  # no multiple of 4
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(3, 3, 3),  # no half
        nn.Conv2d(4, 8, (3, 1)),
    ]
    model = nn.Sequential(*convolutions)
    generate_convolutions(model)
    shapes = [(tuple(m.parametrizations.weight[0].shape), tuple(m.parametrizations.weight.original.shape)) for m in model]
    assert shapes == [
        ((8, 3, 3, 8, 10), (10, 1)),
        ((8, 3, 3, 4, 14), (14, 2)),
        ((8, 3, 3, 4, 14), (14, 3)),
        ((8, 5, 5, 4, 14), (14, 2)),
        ((8, 3, 3, 6, 7), (7, 1)),
        ((8, 1, 1, 8, 7), (7, 1)),
        ((8, 1, 1, 8, 7), (7, 1)),
        ((3, 3, 3, 3, 7), (7, 1)),
        ((8, 3, 1, 4, 14), (14, 1)),
    ]
    groups = [id(m.parametrizations.weight[0]) for m in model]
    assert groups[1] == groups[2] and len(set(groups)) == 8
    assert [tuple(m.weight.shape) for m in model] == [(m.out_channels, m.in_channels, *m.kernel_size) for m in convolutions]
    assert all(isinstance(m.bias, nn.Parameter) for m in model)


def test_copies_share_as_the_original_does():
    torch.manual_seed(0)
    model = models.Nested().eval()
    generate_convolutions(model)
    x = torch.randn(2, 3, 8, 8)
    expected = model(x)
    twin = copy.deepcopy(model)
    first, second = (block[1].parametrizations.weight[0] for block in twin.blocks)
    assert first is second and first is not model.blocks[0][1].parametrizations.weight[0]
    assert len(list(twin.parameters())) == len(list(model.parameters()))
    assert sum(name.endswith(".theta") for name, _ in model.named_parameters()) == 2
    train(twin, sgd(twin), models.minibatches(1))
    assert torch.equal(model(x), expected) and not torch.equal(twin(x), expected)


def test_saving_and_loading():
    torch.manual_seed(0)
    model, other = models.Nested().eval(), models.Nested().eval()
    for each in (model, other):
        generate_convolutions(each)
    x = torch.randn(2, 3, 8, 8)
    assert not torch.equal(model(x), other(x))
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(model(x), other(x))


def test_the_generator_decides():
    def values(seed: int) -> list[Tensor]:
        model = models.Nested()
        generate_convolutions(model, torch.Generator().manual_seed(seed))
        return [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]

    assert all(torch.equal(a, b) for a, b in zip(values(1), values(1), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(values(1), values(2), strict=True))


def test_memory_formats_and_data_types():
    """Table 7's tensors have five dimensions, which a conversion to channels_last does not take."""
    model = models.Nested()
    generate_convolutions(model)
    model.to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    assert model.blocks[0][1].weight.is_contiguous()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).isfinite().all()
    half = models.Nested().double()
    generate_convolutions(half)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float64}


def test_compiled_models_see_new_values():
    torch.manual_seed(0)
    model = models.Nested()
    generate_convolutions(model)
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, backend="aot_eager")
    batches = models.minibatches(3)
    torch.testing.assert_close(train(compiled, sgd(twin), batches), train(model, sgd(model), batches))


def test_misuse_is_one_sentence_with_the_cure():
    def refused(pattern: str, model: nn.Module) -> None:
        before = list(model.state_dict())
        with pytest.raises(ValueError, match=pattern) as caught:
            generate_convolutions(model)
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
        assert list(model.state_dict()) == before

    refused("Linear has no nn.Conv2d", nn.Linear(2, 2))
    refused("convolution 1 has groups=2", nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=2)))
    twice = models.plain()
    generate_convolutions(twice)
    refused("convolution 0 has a parametrized weight already", twice)
    tied = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    tied[1].weight = tied[0].weight
    refused(r"0\.weight and 1\.weight are one parameter: build", tied)
    with pytest.raises(ValueError, match=r"^embeddings\(\) matches no parameter"):
        embeddings().names(models.plain())


def test_the_selection_is_all_embeddings():
    """Of a model that has other parametrizations, too."""
    model = models.plain()
    generate_convolutions(model)
    parametrize_rank1(model)
    assert embeddings().names(model) == ["0.parametrizations.weight.original"]


def test_a_convolution_that_is_used_twice_is_generated_once():
    layer = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    generate_convolutions(model)
    assert embeddings().names(model) == ["0.parametrizations.weight.original"]
