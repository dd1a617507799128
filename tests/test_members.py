"""The members of a LatePhase: how they are spawned, exchanged with the live model, and averaged."""

from __future__ import annotations

import copy
import math

import models
import pytest
import torch
from models import assert_same, sgd, spawned, train
from torch import Tensor, nn

from late_phase import LatePhase, batchnorm, by_name, head

# ----------------------------------------------------------------------------------------------------------------- spawning


def test_initialization_noise_is_relative_to_each_tensor():
    """Eq. 2: σ0 ‖φ_0‖ / sqrt(D) is the standard deviation, so rms(φ_k - φ_0) / rms(φ_0) -> σ0."""
    model = nn.Sequential(nn.Linear(300, 200), nn.BatchNorm1d(200))
    nn.init.normal_(model[1].weight, 3.0, 1.0)
    late = LatePhase(model, sgd(model), by_name("*.weight"), K=40, sigma0=0.25)
    phi_0 = {name: p.detach().clone() for name, p in model.named_parameters()}
    late.spawn(torch.Generator().manual_seed(0))
    for name in ("0.weight", "1.weight"):
        change = late.members[name] - phi_0[name]
        rms = phi_0[name].square().mean().sqrt()
        n = change.numel()
        assert change.square().mean().sqrt() / rms == pytest.approx(0.25, abs=4 * 0.25 / math.sqrt(2 * n))
        assert change.mean() / rms == pytest.approx(0, abs=4 * 0.25 / math.sqrt(n))
    assert torch.equal(late.members["1.running_var"], torch.ones(40, 200))
    assert "0.bias" not in late.members


def test_without_noise_members_start_identical_with_the_optimizer_state():
    torch.manual_seed(0)
    model = models.plain()
    late = LatePhase(model, sgd(model), batchnorm(), K=4)
    train(model, late, models.minibatches(3))
    momentum = late.state[model[1].weight]["momentum_buffer"].clone()
    before = copy.deepcopy(model)
    late.spawn()
    for k in range(4):
        with late.member(k):
            assert_same(model, before)
            assert torch.equal(late.state[model[1].weight]["momentum_buffer"], momentum)


@pytest.mark.parametrize("make", [sgd, lambda model: torch.optim.Adam(model.parameters(), lr=0.01)])
def test_members_can_begin_without_optimizer_state(make):
    """The first step of each is that of a new optimizer."""
    torch.manual_seed(0)
    model = models.plain()
    optimizer = make(model)
    late = LatePhase(model, optimizer, batchnorm(), K=2)
    train(model, late, models.minibatches(3))
    base = copy.deepcopy(late.state[model[0].weight])
    late.spawn(copy_state=False)
    assert model[1].weight not in late.state and all(torch.equal(late.state[model[0].weight][key], base[key]) for key in base)
    other = copy.deepcopy(model)
    minibatches = models.minibatches(2)
    train(model, late, minibatches[:1])
    train(other, make(other), minibatches[:1])
    assert torch.equal(late.members["1.weight"][0], other[1].weight)
    assert not torch.equal(late.members["1.weight"][0], late.members["1.weight"][1])
    assert model[1].weight not in late.state, "the second member hasn't had its first step"


def test_noise_is_that_of_the_generator():
    members = []
    for seed in (9, 9, 8):
        model = models.plain()
        late = LatePhase(model, sgd(model), batchnorm(), K=3, sigma0=0.3)
        late.spawn(torch.Generator().manual_seed(seed))
        members.append(late.members["1.weight"])
    assert torch.equal(members[0], members[1])
    assert not torch.equal(members[0], members[2])


# --------------------------------------------------------------------------------------------- in and out of the live model


def test_entering_a_member_shows_its_weights_and_leaves_no_trace():
    model, late = spawned()
    before = copy.deepcopy(model)
    for k in (2, 0, 1):
        with late.member(k) as entered:
            assert entered is model
            for name, values in late.members.items():
                assert torch.equal(model.state_dict()[name], values[k])
    assert_same(model, before)


def test_what_happens_to_a_member_stays_with_it():
    model, late = spawned()
    others = late.members["1.weight"][[0, 2]].clone()
    with pytest.raises(ZeroDivisionError), late.member(1), torch.no_grad():
        model[1].weight.fill_(7.0)
        raise ZeroDivisionError
    assert torch.equal(late.members["1.weight"][1], torch.full((4,), 7.0))
    assert torch.equal(late.members["1.weight"][[0, 2]], others)


@pytest.mark.parametrize(
    "replace",
    [
        lambda model: model.double().float(),
        lambda model: model.to(memory_format=torch.channels_last),
        lambda model: nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(model.parameters()), model.parameters()),
    ],
)
@pytest.mark.parametrize("select", [batchnorm() + head(), by_name("*")])
def test_members_follow_a_model_whose_tensors_are_replaced(replace, select):
    results = []
    for replaced in (False, True):
        torch.manual_seed(0)
        model = models.Nested()
        late = LatePhase(model, sgd(model), select, 3, 0.3)
        late.spawn(torch.Generator().manual_seed(0))
        train(model, late, models.minibatches(4))
        if replaced:
            replace(model)
        train(model, late, models.minibatches(5, seed=1))
        results.append(late.average().state_dict())
    for a, b in zip(*(result.values() for result in results), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_converting_the_model_after_spawning_is_refused():
    model, late = spawned(steps=3)
    model.double()
    with pytest.raises(RuntimeError, match=r"1\.weight was torch\.float32 on cpu at spawn\(\) and is now torch\.float64"):
        train(model, late, models.minibatches(1, torch.float64))


# ----------------------------------------------------------------------------------------------------------------- averages


def test_average_by_hand():
    model, late = spawned()
    single = late.average()
    live = dict(model.state_dict())
    late.state_dict()
    for name, value in single.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == late.members[name].max()
        elif name in late.members:
            torch.testing.assert_close(value, sum(late.members[name]) / 3)
        else:
            assert torch.equal(value, live[name])
    assert "1.weight" in late.members
    assert "6.bias" in late.members


def test_folded_statistics_average_the_layers_outputs_exactly():
    model, late = spawned(steps=7)
    x = torch.randn(5, 4, 6, 6) * 3
    outputs = []
    for k in range(3):
        with late.member(k):
            outputs.append(model[1].eval()(x))
    folded = late.average("folded")[1].eval()
    torch.testing.assert_close(folded(x), sum(outputs) / 3, rtol=1e-5, atol=1e-5)
    averaged = late.average("mean")[1].eval()
    assert not torch.allclose(averaged(x), sum(outputs) / 3, rtol=1e-3, atol=1e-3)


def test_folded_statistics_of_a_model_that_is_a_normalization_layer_itself():
    torch.manual_seed(0)
    model = nn.BatchNorm1d(5)
    late = LatePhase(model, sgd(model), batchnorm(), K=3, sigma0=0.3)
    late.spawn()
    train(model, late, [(x.flatten(1)[:, :5] * (1 + i) + i, y) for i, (x, y) in enumerate(models.minibatches(7))])
    assert set(late.members) == set(model.state_dict())
    x = torch.randn(6, 5) * 3
    outputs = []
    for k in range(3):
        with late.member(k):
            outputs.append(copy.deepcopy(model).eval()(x))
    torch.testing.assert_close(late.average("folded").eval()(x), sum(outputs) / 3, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(late.average("mean").eval()(x), sum(outputs) / 3, rtol=1e-3, atol=1e-3)


def test_a_tied_parameter_is_averaged_under_both_names():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    model = Tied()
    late = LatePhase(model, sgd(model), by_name("b"), K=3, sigma0=1.0)
    late.spawn()
    single = late.average()
    assert torch.equal(single.a.weight, late.members["a.weight"].mean(0))
    assert single.a.weight is single.b.weight


def test_layers_that_cannot_be_folded_say_so():
    """One has no shift that the folded layer could have; two others have one scale, and statistics of their own."""
    shared = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 64, 5))
    shared[1].weight, shared[1].bias = shared[0].weight, shared[0].bias
    unshifted = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 64, 5))
    unshifted[0].register_parameter("bias", None)
    for model, name in ((shared, "1"), (unshifted, "0")):
        late = LatePhase(model, sgd(model), batchnorm(), K=2)
        late.spawn()
        train(model, late, models.minibatches(3))
        with pytest.raises(ValueError, match=rf"'folded' needs layers with a scale and a shift of their own, which {name} lacks"):
            late.average("folded")
        late.average()
