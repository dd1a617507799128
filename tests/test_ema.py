"""The exponential moving average against torch's AveragedModel and against the definition."""

from __future__ import annotations

import pytest
import torch
from models import minibatches, plain, sgd, spawned, train
from runs import TINY, StopAfter, history
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from late_phase import LatePhase, nothing
from late_phase.methods.ema import EMA
from late_phase.training.loop import run


def test_without_warmup_it_is_that_of_torch():
    torch.manual_seed(0)
    model = plain()
    late = LatePhase(model, sgd(model), nothing(), K=1)
    ours, theirs = EMA(0.8, warmup=False), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    for batch in minibatches(7):
        train(model, late, [batch])
        ours.update(late.weights())
        theirs.update_parameters(model)
    for name, parameter in theirs.module.named_parameters():
        assert torch.equal(ours.mean[name], parameter.detach())
    assert not torch.allclose(ours.mean["0.weight"], model[0].weight)


@pytest.mark.parametrize("warmup", [False, True])
def test_every_member_has_an_average_of_its_own_by_hand(warmup):
    model, late = spawned(K=3)
    average, expected = EMA(0.5, warmup), {}
    for t, batch in enumerate(minibatches(12)):
        train(model, late, [batch])
        average.update(late.weights())
        decay = min(0.5, (1 + t) / (10 + t)) if warmup else 0.5
        for name, value in late.weights().items():
            expected[name] = decay * expected[name] + (1 - decay) * value if t else value.clone()
    assert average.mean["1.weight"].shape == (3, 4)
    for name, mean in average.mean.items():
        torch.testing.assert_close(mean, expected[name], rtol=1e-5, atol=1e-6)


def test_a_run_averages_after_each_step_from_the_start_on(tmp_path, composed, monkeypatch):
    """Each minibatch counts, also where an iteration isn't over."""
    overrides = ("averaging=ema", *TINY, "averaging.start=1", "averaging.decay=0.7", "late_phase.sigma0=0.1")
    expected, steps, step = {}, 0, LatePhase.step

    def watched(late: LatePhase) -> None:
        nonlocal steps
        step(late)
        steps += 1
        if steps > 8:
            t = steps - 9
            decay = min(0.7, (1 + t) / (10 + t))
            for name, value in late.weights().items():
                expected[name] = decay * expected[name] + (1 - decay) * value if t else value.clone()

    monkeypatch.setattr(LatePhase, "step", watched)
    run(composed(*overrides), tmp_path / "a" / "b" / "seed=0")
    saved = torch.load(tmp_path / "a" / "b" / "seed=0" / "checkpoint.pt", weights_only=True)["averaging"]
    assert saved["count"] == steps - 8 == 24
    for name, mean in saved["mean"].items():
        torch.testing.assert_close(mean, expected[name], rtol=1e-4, atol=1e-6)


def test_an_interruption_neither_skips_nor_repeats_a_step(tmp_path, composed, monkeypatch):
    directory = tmp_path / "a" / "b" / "seed=0"
    with monkeypatch.context() as patch:
        StopAfter(patch, 11)
        with pytest.raises(SystemExit):
            run(composed("averaging=ema", *TINY, "averaging.start=1"), directory)
    saved = torch.load(directory / "checkpoint.pt", weights_only=True)
    assert saved["averaging"]["count"] == 3 == saved["tally"]["batches"]
    assert saved["averaging"]["mean"]["bn1.weight"].shape == (3, 6)


def test_it_is_measured_where_that_is_asked_for(tmp_path, composed):
    run(composed("averaging=ema", *TINY, "averaging.start=2", "runtime.evaluate_swa_every=1"), tmp_path / "a" / "b" / "seed=0")
    rows = history(tmp_path / "a" / "b" / "seed=0")
    assert [row["ema_test_accuracy"] != "" for row in rows] == [False, False, True, True]
