"""What LatePhase saves and loads."""

from __future__ import annotations

import copy
import io

import models
import pytest
import torch
from models import SGD, assert_same, sgd, spawned, train
from torch import nn

from late_phase import LatePhase, batchnorm, head


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("stop", [2, 4, 6, 11])
@pytest.mark.parametrize(("pull", "outer"), [(0.0, 0.0), (0.4, 0.7)])
def test_saving_and_loading_at_any_step_changes_nothing(optimizer, stop, pull, outer):
    """T0 is after 3 minibatches, iterations have 4: the stops are before T0, inside of an iteration, and in the third one."""

    def start() -> tuple[nn.Module, LatePhase]:
        torch.manual_seed(0)
        model = models.plain()
        options = SGD if optimizer is torch.optim.SGD else {"lr": 0.01}
        return model, LatePhase(
            model, optimizer(model.parameters(), **options), batchnorm() + head(), 4, 0.2, 0.5, None, pull, outer
        )

    def go(model: nn.Module, late: LatePhase, first: int, last: int) -> None:
        for i in range(first, last):
            if i == 3:
                late.spawn(torch.Generator().manual_seed(1))
            train(model, late, models.minibatches(16)[i : i + 1])

    undisturbed = start()
    go(*undisturbed, 0, 16)
    first = start()
    go(*first, 0, stop)
    file = io.BytesIO()
    torch.save({"model": first[0].state_dict(), "late": first[1].state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = start()
    second[0].load_state_dict(saved["model"])
    second[1].load_state_dict(saved["late"])
    go(*second, stop, 16)
    assert_same(undisturbed[0], second[0])
    assert_same(undisturbed[1].average(), second[1].average())


def test_a_loaded_state_is_independent_of_its_source():
    model, late = spawned()
    other = copy.deepcopy(model)
    copied = LatePhase(other, sgd(other), batchnorm() + head(), 3)
    copied.load_state_dict(late.state_dict())
    before = copy.deepcopy(copied.average())
    train(model, late, models.minibatches(6))
    assert_same(copied.average(), before)


def test_what_was_saved_before_spawning_begins_another_late_phase():
    """A sweep over K and φ from one checkpoint at T0."""
    torch.manual_seed(0)
    model = models.plain()
    late = LatePhase(model, sgd(model), batchnorm(), K=2)
    train(model, late, models.minibatches(3))
    other = LatePhase(model, sgd(model), head(), K=5)
    other.load_state_dict(late.state_dict())
    momentum = other.optimizer.state[model[0].weight]["momentum_buffer"]
    assert torch.equal(momentum, late.optimizer.state[model[0].weight]["momentum_buffer"])
    other.spawn()
    assert other.members["6.weight"].shape[0] == 5


def test_the_state_of_a_plain_optimizer_is_told_apart():
    late = spawned()[1]
    for state in (late.optimizer.state_dict(), None, {}):
        with pytest.raises(ValueError, match=r"this is not the state of a LatePhase: load an optimizer's own state into"):
            late.load_state_dict(state)


def test_the_state_of_another_late_phase_is_refused():
    model, late = spawned(K=3)
    with pytest.raises(ValueError, match="K=3 members, but this LatePhase has K=4"):
        LatePhase(model, sgd(model), batchnorm() + head(), 4).load_state_dict(late.state_dict())
    split = LatePhase(model, sgd(model), batchnorm() + head(), 3, phi_options={"lr": 0.1})
    with pytest.raises(ValueError, match="as before, with the same phi_options"):
        split.load_state_dict(late.state_dict())
    with pytest.raises(ValueError, match=r"another selection, which differs in 6\.bias, 6\.weight"):
        LatePhase(model, sgd(model), batchnorm(), 3).load_state_dict(late.state_dict())


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    _model, late = models.spawned()
    before = copy.deepcopy(late.state_dict())
    name = next(iter(before["members"]))
    for change, why in (
        ({"members": before["members"] | {name: torch.zeros(3, 99)}}, r"as \[3, 99\], which doesn't fit this model"),
        ({"member_states": before["member_states"][:2]}, "lacks optimizer states of members"),
    ):
        with pytest.raises(ValueError, match=why):
            late.load_state_dict(before | change)
        torch.testing.assert_close(late.members, before["members"], rtol=0, atol=0)
