"""Optimizers by name: groups, options, and which parameters have weight decay."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from late_phase import LatePhase
from late_phase.optimization import optimizers
from late_phase.selection import by_name, layernorm
from late_phase.support.errors import UserError

OPTIONS = {"lr": 0.1, "betas": [0.8, 0.9], "eps": 1e-8, "weight_decay": 0.3}


def model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Conv1d(1, 1, 1), nn.Linear(4, 2))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def step(model: nn.Module, optimizer: torch.optim.Optimizer | LatePhase) -> None:
    model(torch.arange(6.0).view(2, 1, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_adamw_is_torchs():
    ours, theirs = model(), model()
    one = optimizers.build("adamw", ours, **OPTIONS, decay_vectors=True)
    other = torch.optim.AdamW(theirs.parameters(), **OPTIONS)
    assert len(one.param_groups) == 1
    for _ in range(3):
        step(ours, one)
        step(theirs, other)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_without_decay_of_vectors_only_matrices_and_kernels_shrink():
    """The rest of a step is the same."""
    with_decay, without, plain = model(), model(), model()
    step(with_decay, optimizers.build("adamw", with_decay, **OPTIONS, decay_vectors=True))
    step(without, optimizers.build("adamw", without, **OPTIONS, decay_vectors=False))
    step(plain, torch.optim.AdamW(plain.parameters(), **(OPTIONS | {"weight_decay": 0})))
    names = [name for name, _ in plain.named_parameters()]
    kernels = {"0.weight", "2.weight", "3.weight"}
    assert len(names) == 8
    for name in names:
        own, decayed, not_decayed = (some.get_parameter(name) for some in (without, with_decay, plain))
        torch.testing.assert_close(own, decayed if name in kernels else not_decayed)
        assert not torch.allclose(decayed, not_decayed)


def test_groups_keep_their_exceptions():
    built = model()
    exceptions = [(by_name("0"), {"lr": 0.2})]
    groups = optimizers.build("adamw", built, exceptions, **OPTIONS, decay_vectors=False).param_groups
    found = [(len(group["params"]), group["weight_decay"], group["lr"], group["base_lr"]) for group in groups]
    assert found == [(2, 0.3, 0.1, 0.1), (4, 0.0, 0.1, 0.1), (1, 0.3, 0.2, 0.2), (1, 0.0, 0.2, 0.2)]


def test_late_phase_weights_may_have_a_weight_decay_of_their_own():
    built = model()
    optimizer = optimizers.build("adamw", built, **OPTIONS, decay_vectors=False)
    late = LatePhase(built, optimizer, layernorm(), K=2, phi_options={"weight_decay": 0.7})
    late.spawn()
    twin = copy.deepcopy(built)
    expected = torch.optim.AdamW(twin[1].parameters(), **(OPTIONS | {"weight_decay": 0.7}))
    step(built, late)
    step(twin, expected)
    torch.testing.assert_close(late.members["1.weight"][0], twin[1].weight.data)


def test_a_model_of_matrices_alone():
    built = nn.Linear(3, 2, bias=False)
    assert len(optimizers.build("adamw", built, **OPTIONS, decay_vectors=False).param_groups) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.betas=[0.9]", r"^optimizer\.betas=\[0\.9\] must be two numbers"),
        ("optimizer.betas=[0.9,1]", r"^optimizer\.betas=\[0\.9, 1\.0\] is out of range"),
        ("optimizer.eps=-1", r"^optimizer\.eps=-1\.0 is out of range"),
        ("optimizer.weight_decay=-1", r"^optimizer\.weight_decay=-1\.0 is out of range"),
        ("optimizer.lr=0", r"^optimizer\.lr=0\.0 is out of range"),
    ],
)
def test_values_that_can_not_work(composed, override, message):
    with pytest.raises(UserError, match=message):
        composed("optimizer=adamw", override)
