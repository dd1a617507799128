"""Latest weight averaging against the mean by hand."""

from __future__ import annotations

import pytest
import torch
from models import minibatches, spawned, train
from runs import TINY

from late_phase.methods.lawa import LAWA
from late_phase.methods.swa import SWA
from late_phase.training.loop import run


@pytest.mark.parametrize("models", [1, 3])
def test_it_is_the_mean_of_the_latest_weights_of_each_member(models):
    model, late = spawned(K=3)
    average, seen = LAWA(models), []
    for batch in minibatches(5):
        train(model, late, [batch])
        average.update(late.weights())
        seen.append({name: value.clone() for name, value in late.weights().items()})
        for name, mean in average.mean.items():
            latest = [weights[name] for weights in seen[-models:]]
            torch.testing.assert_close(mean, sum(latest) / len(latest), rtol=1e-5, atol=1e-7)
    assert average.mean["1.weight"].shape == (3, 4) and len(average.latest) == models


def test_of_all_weights_it_is_swa():
    model, late = spawned(K=2)
    latest, all_alike = LAWA(9), SWA()
    for batch in minibatches(6):
        train(model, late, [batch])
        latest.update(late.weights())
        all_alike.update(late.weights())
    for name, mean in all_alike.mean.items():
        torch.testing.assert_close(latest.mean[name], mean, rtol=1e-5, atol=1e-6)


def test_a_run_averages_the_ends_of_its_last_epochs(tmp_path, composed):
    directory = tmp_path / "a" / "b" / "seed=0"
    run(composed("averaging=lawa", *TINY, "averaging.start=0", "averaging.models=2", "late_phase.T0=3"), directory)
    saved = torch.load(directory / "checkpoint.pt", weights_only=True)
    before, last = saved["averaging"]["latest"]
    assert saved["averaging"]["count"] == 4 and torch.equal(last["conv1.weight"], saved["model"]["conv1.weight"])
    assert torch.equal(before["bn1.weight"][0], before["bn1.weight"][2]) and not torch.equal(
        last["bn1.weight"][0], last["bn1.weight"][1]
    )
    for name, mean in saved["averaging"]["mean"].items():
        torch.testing.assert_close(mean, (before[name] + last[name]) / 2, rtol=1e-6, atol=1e-7)
