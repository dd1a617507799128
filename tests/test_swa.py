"""Stochastic weight averaging against torch's AveragedModel, and its models against the definition."""

from __future__ import annotations

import copy

import pytest
import torch
from models import minibatches, plain, sgd, spawned, train
from runs import TINY, StopAfter
from torch.optim.swa_utils import AveragedModel

from late_phase import LatePhase, batchnorm, nothing, recompute_running_statistics
from late_phase.methods.swa import SWA
from late_phase.runs.directory import RunDirectory
from late_phase.support.errors import UserError
from late_phase.training import setup
from late_phase.training.interruption import Interruption
from late_phase.training.loop import run
from late_phase.training.loop import train as train_run
from late_phase.training.world import World


def test_the_mean_is_that_of_torch():
    torch.manual_seed(0)
    model = plain()
    late = LatePhase(model, sgd(model), nothing(), K=1)
    ours, theirs = SWA(), AveragedModel(model)
    for batch in minibatches(7):
        train(model, late, [batch])
        ours.update(late.weights())
        theirs.update_parameters(model)
    assert ours.count == 7
    for name, parameter in theirs.module.named_parameters():
        torch.testing.assert_close(ours.mean[name], parameter.detach(), rtol=1e-6, atol=1e-7)


def test_every_member_has_an_average_of_its_own():
    model, late = spawned(K=3)
    average, seen = SWA(), []
    for batch in minibatches(5):
        train(model, late, [batch])
        average.update(late.weights())
        seen.append({name: value.clone() for name, value in late.weights().items()})
    assert average.mean["1.weight"].shape == (3, 4) and average.mean["0.weight"].shape == (4, 3, 3, 3)
    for name, mean in average.mean.items():
        torch.testing.assert_close(mean, torch.stack([weights[name] for weights in seen]).mean(0), rtol=1e-5, atol=1e-6)


def test_before_spawn_the_members_are_all_phi_0():
    model = plain()
    late = LatePhase(model, sgd(model), batchnorm(), K=3)
    weights = late.weights()
    assert torch.equal(weights["1.weight"], model[1].weight.detach().expand(3, -1))
    assert list(weights) == [name for name, _ in model.named_parameters()]


@pytest.fixture
def trained(composed, tmp_path):
    """A run with late-phase weights and SWA over its last two of four epochs, as the loop leaves it."""
    config = composed("averaging=swa", *TINY, "averaging.start=2", "late_phase.sigma0=0.1")
    torch.manual_seed(0)
    parts = setup.build(config, torch.device("cpu"))

    class Silent:
        def log(self, row: dict) -> None:
            pass

    with Interruption() as interruption:
        train_run(parts, RunDirectory(tmp_path), Silent(), interruption, World(0, 1, torch.device("cpu")))
    return parts


def test_statistics_are_estimated_for_the_average_and_for_each_member(trained):
    """By a pass over an epoch that training doesn't reach, with the weights that are to predict."""
    assert trained.methods["averaging"].average.count == 2
    swa, late = trained.methods["averaging"], trained.trained.late
    mean = swa.average.mean
    expected = copy.deepcopy(late.model)
    for name, parameter in expected.named_parameters():
        parameter.data.copy_(mean[name].mean(0) if name in late.phi else mean[name])
    recompute_running_statistics(expected, trained.batches.epoch(4))
    found = swa.model(trained.trained)
    for (name, one), other in zip(found.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    members = swa.members(trained.trained)
    for k in range(3):
        member = copy.deepcopy(late.model)
        for name, parameter in member.named_parameters():
            parameter.data.copy_(mean[name][k] if name in late.phi else mean[name])
        recompute_running_statistics(member, trained.batches.epoch(4))
        state = member.state_dict()
        assert members.keys() == {name for name in state if name.split(".")[0] in ("bn1", "bn2", "bn3", "bn4", "head")}
        assert all(torch.equal(values[k], state[name]) for name, values in members.items())


def test_measuring_it_during_training_disturbs_nothing(tmp_path, composed):
    """Figure 2 has a point each epoch."""
    overrides = ("averaging=swa", *TINY, "averaging.start=2")
    often, never = tmp_path / "often" / "a" / "seed=0", tmp_path / "never" / "a" / "seed=0"
    run(composed(*overrides, "runtime.evaluate_swa_every=1"), often)
    run(composed(*overrides), never)
    for name in ("model.safetensors", "members.safetensors", "swa/model.safetensors", "swa/members.safetensors"):
        assert (often / name).read_bytes() == (never / name).read_bytes()
    rows = (often / "history.csv").read_text().splitlines()
    column = rows[0].split(",").index("swa_test_accuracy")
    assert [row.split(",")[column] != "" for row in rows[1:]] == [False, False, True, True]


def test_the_average_survives_an_interruption(tmp_path, composed, monkeypatch):
    overrides = ("averaging=swa", *TINY, "averaging.start=1")
    with monkeypatch.context() as patch:
        StopAfter(patch, 8 * 3 + 2)
        with pytest.raises(SystemExit):
            run(composed(*overrides), tmp_path / "a" / "b" / "seed=0")
    saved = torch.load(tmp_path / "a" / "b" / "seed=0" / "checkpoint.pt", weights_only=True)
    assert saved["averaging"]["count"] == 2
    assert saved["averaging"]["mean"]["bn1.weight"].shape == (3, 6)
    torch.save(saved | {"averaging": None}, tmp_path / "a" / "b" / "seed=0" / "checkpoint.pt")
    with pytest.raises(UserError, match=r"seed=0 has a checkpoint without the state of averaging: remove the directory, and start"):
        run(composed(*overrides), tmp_path / "a" / "b" / "seed=0")
