"""Folding, and late-phase learning with weights that are folded afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable

import models
import pytest
import torch
import torch.nn.functional as F
from models import assert_same, minibatches, sgd, train
from torch import Tensor, nn

from late_phase import LatePhase
from late_phase.layers.fold import fold
from late_phase.layers.hypernetwork import embeddings, generate_convolutions
from late_phase.layers.rank1 import parametrize_rank1, rank1


class Characters(nn.Module):
    """Embedding, LSTM and linear: ``[examples, time]`` -> ``[examples, 5]``."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(x))[0].mean(1))


def rank1_with_spread(model: nn.Module) -> None:
    parametrize_rank1(model, 0.5)


def both(model: nn.Module) -> None:
    generate_convolutions(model)
    parametrize_rank1(model, 0.5)


def inputs(build: Callable[[], nn.Module]) -> Tensor:
    return torch.randint(7, (6, 9)) if build is Characters else torch.randn(6, 3, 8, 8)


CASES = [
    (models.plain, rank1_with_spread),
    (models.Nested, rank1_with_spread),
    (Characters, rank1_with_spread),
    (models.Nested, generate_convolutions),
    (models.Nested, both),
]


@pytest.mark.parametrize(("build", "parametrize"), CASES)
def test_a_folded_model_is_a_plain_one(build, parametrize):
    torch.manual_seed(0)
    model, plain = build().eval(), build().eval()
    types = [type(module) for module in plain.modules()]
    parametrize(model)
    x = inputs(build)
    expected = model(x)
    assert fold(model) is model
    assert torch.equal(model(x), expected)
    assert [type(module) for module in model.modules()] == types
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [module.extra_repr() for module in model.modules()] == [module.extra_repr() for module in plain.modules()]
    for parameter in model.parameters():
        assert type(parameter) is nn.Parameter and parameter.requires_grad and parameter.is_leaf and parameter.is_contiguous()
    plain.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(plain(x), expected)
    train(model, sgd(model), [(x, torch.arange(6) % 5)])
    train(plain, sgd(plain), [(x, torch.arange(6) % 5)])
    assert_same(model, plain)
    assert_same(copy.deepcopy(model), plain)


@pytest.mark.parametrize(("build", "parametrize"), CASES)
def test_folding_a_copy_leaves_the_original(build, parametrize):
    """torch gives deep copies of a parametrized layer one class; taking the weight's property from it would break them all."""
    torch.manual_seed(0)
    model = build().eval()
    parametrize(model)
    x = inputs(build)
    expected = model(x)
    folded = fold(copy.deepcopy(model))
    assert torch.equal(folded(x), expected)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.zero_()
    assert torch.equal(model(x), expected)
    assert torch.equal(fold(model)(x), expected)


def test_recurrent_layers_hold_on_to_the_folded_weights():
    torch.manual_seed(0)
    model = Characters()
    parametrize_rank1(model, 0.5)
    fold(model)

    def assert_held(lstm: nn.LSTM) -> None:
        assert [id(weight) for weight in lstm._flat_weights] == [id(parameter) for parameter in lstm.parameters()]

    assert_held(model.lstm)
    assert_held(copy.deepcopy(model).lstm)


def test_the_memory_format_stays():
    model = models.plain().to(memory_format=torch.channels_last)
    parametrize_rank1(model, 0.5)
    assert fold(model)[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_folding_takes_a_model_without_parametrizations_and_one_that_is_a_layer():
    torch.manual_seed(0)
    plain = models.plain()
    before = copy.deepcopy(plain)
    assert_same(fold(plain), before)
    layer = nn.Linear(3, 2)
    parametrize_rank1(layer, 0.5)
    weight = layer.weight
    assert torch.equal(fold(layer).weight, weight) and type(layer) is nn.Linear
    parametrize_rank1(layer)
    assert torch.equal(layer.weight, weight)


@pytest.mark.parametrize(
    ("parametrize", "select"), [(rank1_with_spread, rank1()), (generate_convolutions, embeddings())], ids=["rank-1", "embeddings"]
)
@pytest.mark.parametrize("build", [models.plain, models.Nested])
def test_late_phase_learning_ends_in_a_plain_model(build, parametrize, select):
    torch.manual_seed(0)
    model = build()
    parametrize(model)
    phi = select.names(model)
    late = LatePhase(model, sgd(model), select, K=3, sigma0=0.3, gamma_theta=1 / 3)
    batches = minibatches(9)
    train(model, late, batches[:2])
    late.spawn(torch.Generator().manual_seed(1))
    assert list(late.members) == phi
    theta = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if name not in phi}
    train(model, late, batches[2:4])
    assert all(torch.equal(model.get_parameter(name), value) for name, value in theta.items())
    train(model, late, batches[4:])
    assert not any(torch.equal(model.get_parameter(name), value) for name, value in theta.items())

    single = late.average().eval()
    for name, members in late.members.items():
        assert members.std(0).min() > 0
        torch.testing.assert_close(single.get_parameter(name).detach(), members.mean(0))
    x = torch.randn(4, 3, 8, 8)
    expected, live = single(x), copy.deepcopy(model).eval()(x)
    plain = build().eval()
    plain.load_state_dict(fold(single).state_dict(), strict=True)
    assert torch.equal(plain(x), expected)
    assert torch.equal(copy.deepcopy(model).eval()(x), live)
    train(model, late, batches[:3])


def test_late_phase_learning_of_a_recurrent_network():
    """The members differ in the recurrent matrices, too, and in single models there are none of the last pass' weights."""
    torch.manual_seed(0)
    model = Characters()
    parametrize_rank1(model, 0.01)
    late = LatePhase(model, torch.optim.Adam(model.parameters(), 0.01), rank1(), K=2, sigma0=0.35)
    x = torch.randint(7, (6, 9))
    batch = (x, torch.arange(6) % 5)
    train(model, late, [batch])
    late.spawn(torch.Generator().manual_seed(1))
    first = train(model, late, [batch] * 40)[:2]
    assert first[0] != first[1]
    single = late.average().eval()
    name = "lstm.parametrizations.weight_hh_l1_reverse.0.u"
    assert late.members[name].std(0).min() > 0
    expected = single(x)
    assert F.cross_entropy(expected, batch[1]) < min(first)
    plain = Characters().eval()
    plain.load_state_dict(fold(single).state_dict(), strict=True)
    assert torch.equal(plain(x), expected)


def test_rank1_weights_of_one_start_at_the_plain_model():
    torch.manual_seed(0)
    model = models.plain()
    twin = copy.deepcopy(model)
    parametrize_rank1(model)
    late = LatePhase(model, sgd(model), rank1(), K=2)
    late.spawn()
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(late.average().eval()(x), twin.eval()(x))
