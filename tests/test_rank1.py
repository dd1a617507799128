"""Rank-1 weights against explicit weight matrices."""

from __future__ import annotations

import copy

import models
import pytest
import torch
from models import sgd, train
from torch import Tensor, nn
from torch.func import functional_call

from late_phase.layers.rank1 import Rank1, parametrize_rank1, rank1


def explicit(model: nn.Module) -> dict[str, Tensor]:
    """The plain model's parameters by name, made by hand from those of the parametrized one, for autograd to go through."""
    plain = {}
    for name, parameter in model.named_parameters():
        if name.endswith(".original"):
            prefix = name.removesuffix("original")
            u, v = model.get_parameter(f"{prefix}0.u"), model.get_parameter(f"{prefix}0.v")
            name, parameter = (
                name.replace("parametrizations.", "")[: -len(".original")],
                torch.einsum("o,i,oi...->oi...", u, v, parameter),
            )
        elif ".parametrizations." in f".{name}":
            continue
        plain[name] = parameter
    return plain


def gradients(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def assert_explicit(model: nn.Module, plain: nn.Module, x: Tensor) -> None:
    """The same outputs and gradients, none of which is zero."""

    def loss(out: Tensor | tuple) -> Tensor:
        return (out[0] if isinstance(out, tuple) else out).square().sum()

    actual = loss(model(x))
    actual_gradients = gradients(actual, model)
    expected = loss(functional_call(plain, explicit(model), x))
    torch.testing.assert_close(actual, expected)
    expected_gradients = gradients(expected, model)
    for name, gradient in actual_gradients.items():
        assert gradient.abs().max() > 1e-6, name
        torch.testing.assert_close(gradient, expected_gradients[name], msg=lambda m, name=name: f"{name}: {m}")


def conv1d_and_conv3d() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(2), nn.Conv1d(3, 4, 5), nn.Unflatten(2, (3, 4, 5)), nn.Conv3d(4, 2, 2), nn.Flatten(), nn.Linear(48, 5)
    )


def grouped() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3, groups=3, bias=False), nn.Flatten(), nn.Linear(216, 5, bias=False))


@pytest.mark.parametrize("build", [models.Nested, conv1d_and_conv3d, grouped])
def test_feedforward_layers(build):
    torch.manual_seed(0)
    model = build().double().eval()
    plain = copy.deepcopy(model)
    parametrize_rank1(model, 0.5)
    layers = [m for m in plain.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    matrices = [module for module in model.modules() if isinstance(module, Rank1)]
    assert [(len(m.u), len(m.v)) for m in matrices] == [tuple(layer.weight.shape[:2]) for layer in layers]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert_explicit(model, plain, torch.randn(2, 3, 8, 8, dtype=torch.float64))


RECURRENT = [
    (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    (nn.LSTM, {"proj_size": 2}),
    (nn.GRU, {"bias": False, "batch_first": True}),
    (nn.RNN, {"num_layers": 2}),
]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(("cls", "options"), RECURRENT)
def test_recurrent_matrices_are_not_frozen(cls, options, device):
    """Recurrent layers keep references to their weights; those made by a parametrization are to be new in each pass."""
    torch.manual_seed(0)
    plain = cls(3, 4, **options).double().to(device)
    model = copy.deepcopy(plain)
    parametrize_rank1(model, 0.5)
    names = [name for name, _ in plain.named_parameters() if name.startswith("weight_hh")]
    assert [name for name in names if f"parametrizations.{name}.0.u" in dict(model.named_parameters())] == names
    assert len(rank1().names(model)) == 2 * len(names)
    assert isinstance(model, cls)  # thus torch's fused pass
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        x = torch.randn(5, 2, 3, dtype=torch.float64, device=device)
        with torch.no_grad():
            model(x)
        assert_explicit(model, plain, x)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        model(x)[0].square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert not any(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("event", ["nothing", "a pass", "a move", "a pass in inference mode"])
def test_a_recurrent_layer_can_be_copied_after(event):
    torch.manual_seed(0)
    model = nn.Sequential(nn.LSTM(3, 4))
    parametrize_rank1(model, 0.5)
    x = torch.randn(5, 2, 3)
    if event == "a pass":
        model(x)
    elif event == "a pass in inference mode":
        with torch.inference_mode():
            model(x)
    elif event == "a move":
        model.double().float()
    expected = model(x)[0]
    twin = copy.deepcopy(model)
    for layer in (model, copy.deepcopy(twin)):
        assert torch.equal(layer(x)[0], expected)
    with torch.no_grad():
        twin[0].parametrizations.weight_hh_l0[0].u *= 2
    assert not torch.equal(twin(x)[0], expected)
    assert torch.equal(model(x)[0], expected)


def test_without_spread_nothing_changes_and_with_it_u_and_v_are_around_one():
    torch.manual_seed(0)
    model = models.Nested()
    x = torch.randn(4, 3, 8, 8)
    expected = copy.deepcopy(model)(x)
    parametrize_rank1(model)
    assert torch.equal(model(x), expected)

    def values(seed: int) -> Tensor:
        other = nn.Sequential(nn.Linear(2000, 1000))
        parametrize_rank1(other, 0.01, torch.Generator().manual_seed(seed))
        return torch.cat([other.get_parameter(name).detach() for name in rank1().names(other)])

    u_and_v = values(1)
    assert 0.99 <= u_and_v.min() < 0.9901 and 1.0099 < u_and_v.max() <= 1.01
    assert torch.equal(values(1), u_and_v) and not torch.equal(values(2), u_and_v)
    elsewhere = nn.Linear(2, 3, device="meta")
    parametrize_rank1(elsewhere, 0.01, torch.Generator())
    assert {parameter.device.type for parameter in elsewhere.parameters()} == {"meta"}


def test_the_selection_is_all_u_and_v():
    model = models.plain()
    parametrize_rank1(model)
    assert rank1().names(model) == [f"{i}.parametrizations.weight.0.{key}" for i in (0, 4, 6) for key in ("u", "v")]
    with pytest.raises(ValueError, match=r"^rank1\(\) matches no parameter"):
        rank1().names(models.plain())


def test_saving_and_loading():
    torch.manual_seed(0)
    model, other = models.Nested().eval(), models.Nested().eval()
    for each in (model, other):
        parametrize_rank1(each, 0.5)
    x = torch.randn(2, 3, 8, 8)
    assert not torch.equal(model(x), other(x))
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(model(x), other(x))


def test_copies_are_independent():
    torch.manual_seed(0)
    model = models.Nested().eval()
    parametrize_rank1(model, 0.5)
    x = torch.randn(2, 3, 8, 8)
    expected = model(x)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), expected)
    train(twin, sgd(twin), models.minibatches(1))
    assert torch.equal(model(x), expected) and not torch.equal(twin(x), expected)


def test_compiled_models_see_new_values():
    torch.manual_seed(0)
    model = models.plain()
    parametrize_rank1(model, 0.5)
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, backend="aot_eager")
    batches = models.minibatches(3)
    torch.testing.assert_close(train(compiled, sgd(twin), batches), train(model, sgd(model), batches))


def test_autocast_casts_the_product():
    """u, v and their gradients stay in single precision, and so does the product, which the layer casts."""
    torch.manual_seed(0)
    model = models.plain().eval()
    parametrize_rank1(model, 0.5)
    x = torch.randn(4, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert model[0].weight.dtype == torch.float32
        out = model(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), model(x), atol=0.05, rtol=0.05)
    out.float().square().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 and parameter.grad.any() for parameter in model.parameters())


def test_the_memory_format_is_that_of_the_base_weights():
    model = models.plain().to(memory_format=torch.channels_last)
    parametrize_rank1(model, 0.5)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    model.to(memory_format=torch.contiguous_format)
    assert model[0].weight.is_contiguous()


def test_misuse_is_one_sentence_with_the_cure():
    def refused(pattern: str, model: nn.Module, **options: float) -> None:
        before = list(model.state_dict())
        with pytest.raises(ValueError, match=pattern) as caught:
            parametrize_rank1(model, **options)
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
        assert list(model.state_dict()) == before

    refused("Sequential has no linear, convolutional or recurrent layer", nn.Sequential(nn.BatchNorm2d(3)))
    refused("spread=-0.1 is not", models.plain(), spread=-0.1)
    refused("spread=nan is not", models.plain(), spread=float("nan"))
    twice = models.plain()
    parametrize_rank1(twice)
    refused("has rank-1 weights already", twice)
    tied = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5))
    tied[1].weight = tied[0].weight
    refused(r"0\.weight and 1\.weight are one parameter: build", tied)


def test_a_layer_that_is_used_twice_is_parametrized_once():
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    parametrize_rank1(model)
    assert len(rank1().names(model)) == 2
