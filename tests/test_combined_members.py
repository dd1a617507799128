"""The single model and what else the members give together."""

from __future__ import annotations

import copy

import models
import pytest
import torch
from models import assert_same, sgd, spawned, train
from torch import Tensor, nn

from late_phase import LatePhase, batchnorm, by_name


def test_the_single_model_is_the_plain_architecture():
    model, late = spawned()
    late.model.eval()
    before = copy.deepcopy(model)
    single = late.average()
    fresh = models.plain()
    assert fresh.load_state_dict(single.state_dict(), strict=True)
    assert type(single) is type(model)
    with torch.no_grad():
        next(single.parameters()).zero_()
    assert_same(model, before)


def test_recomputed_statistics_belong_to_the_averaged_weights():
    model, late = spawned()
    batches = models.minibatches(5, seed=3)
    single = late.average("recompute", batches)
    first = torch.cat([single[0](x) for x, _ in batches])
    torch.testing.assert_close(single[1].running_mean, first.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert single.training == model.training


def test_a_state_dict_that_hides_late_phase_weights_is_not_half_averaged():
    """Copies are found by their names; where names are others, as wrappers make them, it is refused."""
    model, late = spawned()
    expected = late.averaged_state_dict()
    hook = model._register_state_dict_hook(lambda module, state, prefix, _: {k: v.clone() for k, v in state.items()})
    for key, value in late.averaged_state_dict().items():
        assert torch.equal(value, expected[key]), key
    hook.remove()
    model._register_state_dict_hook(lambda module, state, prefix, _: {f"inner.{k}": v.clone() for k, v in state.items()})
    with pytest.raises(RuntimeError, match=r"state_dict\(\) has no 1\.weight, so it can't hold its average"):
        late.averaged_state_dict()


def test_tensors_that_begin_at_the_same_place_are_told_apart():
    """Late-phase weights at the start of a buffer that holds those of several layers, as flat optimizers make it."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("flat", torch.arange(6.0))
            self.late = nn.Parameter(self.flat[:2])
            self.base = nn.Parameter(self.flat[2:])

        def forward(self) -> Tensor:
            return (self.late.sum() * self.base).sum()

    model = Flat()
    late = LatePhase(model, torch.optim.SGD(model.parameters(), lr=0.1), by_name("late"), K=2, sigma0=0.5)
    late.spawn()
    for _ in range(3):
        model().backward()
        late.step()
    state = late.averaged_state_dict()
    assert state["flat"].shape == (6,) and torch.equal(state["late"], late.members["late"].mean(0))


def test_what_is_no_tensor_in_a_state_dict_is_kept():
    class Extra(nn.BatchNorm2d):
        def get_extra_state(self) -> dict[str, int]:
            return {"version": 3}

        def set_extra_state(self, state: dict[str, int]) -> None:
            self.version = state["version"]

    model = nn.Sequential(Extra(3), nn.Flatten(), nn.Linear(3 * 64, 5))
    late = LatePhase(model, sgd(model), batchnorm(), K=2)
    late.spawn()
    train(model, late, models.minibatches(3))
    assert late.average()[0].version == 3


def test_complex_late_phase_weights_are_averaged():
    class Phases(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.phase = nn.Parameter(torch.randn(4, dtype=torch.complex128))
            self.scale = nn.Parameter(torch.ones(4, dtype=torch.float64))
            self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

        def forward(self, x: Tensor) -> Tensor:
            return (self.scale * (self.phase * x).abs()).sum()

    torch.manual_seed(0)
    model = Phases()
    late = LatePhase(model, torch.optim.SGD(model.parameters(), lr=0.1), by_name("phase"), K=3, sigma0=0.5)
    late.spawn()
    for _ in range(4):
        model(torch.ones(4)).backward()
        late.step()
    members = late.members["phase"]
    assert members.dtype == torch.complex128 and not torch.equal(members[0], members[1]) and members.imag.abs().min() > 0
    assert torch.equal(late.average().phase.detach(), (members[0] + members[1] + members[2]) / 3)
