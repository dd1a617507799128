"""Nesterov momentum of θ's steps against torch's own optimizers."""

from __future__ import annotations

import copy

import models
import pytest
import torch
import torch.nn.functional as F
from models import assert_same, sgd, train

from late_phase import LatePhase, batchnorm, head, nothing


@pytest.mark.parametrize("select", [nothing(), head()], ids=str)
def test_with_one_member_and_plain_sgd_it_is_nesterov_momentum(select):
    """Of the base weights; a late-phase weight takes plain steps."""
    torch.manual_seed(0)
    model = models.plain().double()
    twin = copy.deepcopy(model)
    late = LatePhase(model, torch.optim.SGD(model.parameters(), lr=0.05), select, K=1, outer=0.8)
    late.spawn()
    phi = [parameter for name, parameter in twin.named_parameters() if name in late.phi]
    theta = [parameter for name, parameter in twin.named_parameters() if name not in late.phi]
    theirs = torch.optim.SGD([{"params": theta, "momentum": 0.8, "nesterov": True}, *([{"params": phi}] if phi else [])], lr=0.05)
    batches = models.minibatches(9, torch.float64)
    train(model, late, batches)
    train(twin, theirs, batches)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("inner", [torch.optim.SGD, torch.optim.Adam])
def test_it_is_torchs_sgd_over_the_steps_of_iterations(inner):
    """As DiLoCo has it: an inner optimizer moves θ, and an outer one takes the difference as its gradient."""
    torch.manual_seed(0)
    model = models.plain().double()
    twin = copy.deepcopy(model)
    options = {"lr": 0.02, "momentum": 0.5} if inner is torch.optim.SGD else {"lr": 0.01}
    late = LatePhase(model, inner(model.parameters(), **options), nothing(), K=3, outer=0.7)
    late.spawn()
    batches = models.minibatches(12, torch.float64)
    train(model, late, batches)
    own = inner(twin.parameters(), **options)
    outer = torch.optim.SGD(twin.parameters(), lr=1.0, momentum=0.7, nesterov=True)
    for i in range(0, 12, 3):
        for x, y in batches[i : i + 3]:
            F.cross_entropy(twin(x), y).backward()
        before = [parameter.detach().clone() for parameter in twin.parameters()]
        own.step()
        for parameter, value in zip(twin.parameters(), before, strict=True):
            parameter.grad = value - parameter.detach()
            parameter.data.copy_(value)
        outer.step()
        outer.zero_grad()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_it_begins_with_the_late_phase():
    torch.manual_seed(0)
    model = models.plain()
    twin = copy.deepcopy(model)
    late = LatePhase(model, sgd(model), batchnorm(), K=2, outer=0.9)
    train(model, late, models.minibatches(5))
    train(twin, sgd(twin), models.minibatches(5))
    assert_same(model, twin)


def test_a_state_without_momentum_begins_with_none():
    """One from before there was such a momentum, or with it turned off since."""
    runs = []
    for change in (lambda state: state.pop("outer"), lambda state: None):
        torch.manual_seed(0)
        model = models.plain()
        late = LatePhase(model, sgd(model), batchnorm(), K=2)
        late.spawn()
        train(model, late, models.minibatches(4))
        state = late.state_dict()
        change(state)
        again = LatePhase(model, sgd(model), batchnorm(), K=2, outer=0.5)
        again.load_state_dict(state)
        train(model, again, models.minibatches(3, seed=1))
        runs.append(model)
        later = LatePhase(model, sgd(model), batchnorm(), K=2)
        later.load_state_dict(again.state_dict())
        assert later.state_dict()["outer"] == [] and len(again.state_dict()["outer"]) == 6
    assert_same(*runs)
