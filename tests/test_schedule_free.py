"""Schedule-free optimizers in runs, against the class of their own package step by step."""

from __future__ import annotations

import copy
import json
import sys

import pytest
import schedulefree
import torch
import torch.nn.functional as F
from runs import TINY, history, run_until
from safetensors.torch import load_file

from late_phase import recompute_running_statistics
from late_phase.methods.schedule_free import estimate_running_statistics
from late_phase.running_statistics import running_statistics
from late_phase.training import setup
from late_phase.training.loop import run

CHOICES = ("optimizer=schedule_free", "schedule=constant")
PLAIN = ("late_phase=none", "late_phase.K=1", "late_phase.T0=null")
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [("schedule_free", schedulefree.SGDScheduleFree), ("schedule_free_adamw", schedulefree.AdamWScheduleFree)],
)
def test_a_run_follows_the_packages_own_class(name, optimizer, tmp_path, composed):
    """To the bit. The statistics of the model are those of its own weights, from an epoch that training doesn't reach."""
    group = (f"optimizer={name}", "schedule=constant", "late_phase=none")
    config = composed(*group, *TINY, *PLAIN[1:], "optimizer.warmup_steps=5", "optimizer.weight_decay=0.01")
    run(config, tmp_path / "a" / "b" / "seed=0")

    torch.manual_seed(config.seed)
    parts = setup.build(config, CPU)
    model = parts.trained.late.model
    theirs = optimizer(model.parameters(), lr=0.02, warmup_steps=5, weight_decay=0.01)
    for epoch in range(4):
        theirs.train()
        for inputs, labels in parts.batches.epoch(epoch):
            F.cross_entropy(model(inputs), labels).backward()
            theirs.step()
            theirs.zero_grad()
        theirs.eval()
    trained = copy.deepcopy(model)
    recompute_running_statistics(model, parts.batches.epoch(4))
    exported = load_file(tmp_path / "a" / "b" / "seed=0" / "model.safetensors")
    for key, value in model.state_dict().items():
        assert torch.equal(exported[key], value), key
    assert not torch.allclose(trained.bn1.running_mean, model.bn1.running_mean)


@pytest.mark.parametrize("late_phase", ["batchnorm", "select", "accumulation"])
def test_statistics_are_estimated_for_each_member(late_phase, composed):
    """Members that share them, share the mean."""
    options = ("late_phase.K=3", "late_phase.T0=0", "dataset.subset=60", "batch_size=8", "late_phase.head=false")
    options += ("late_phase.select=[conv1]",) if late_phase == "select" else ()
    torch.manual_seed(0)
    parts = setup.build(composed(f"late_phase={late_phase}", *CHOICES, *options), CPU)
    late = parts.trained.late
    late.spawn()
    late.train()
    for inputs, labels in parts.batches.epoch(0):
        F.cross_entropy(late.model(inputs), labels).backward()
        late.step()
    late.eval()
    before, expected = {name: value.clone() for name, value in late.weights().items()}, []
    for k in range(3):
        with late.member(k):
            model = copy.deepcopy(late.model)
        recompute_running_statistics(model, parts.trained.spare_batches())
        expected.append(running_statistics(model))
    estimate_running_statistics(parts.trained)
    for name in expected[0]:
        own = torch.stack([statistics[name].float() for statistics in expected])
        assert late_phase != "select" or "running" not in name or not torch.equal(own[0], own[1]), name
        if late_phase == "batchnorm":
            assert torch.equal(late.members[name].float(), own), name
        else:
            torch.testing.assert_close(running_statistics(late.model)[name].float(), own.mean(0))
    assert all(torch.equal(before[name], value) for name, value in late.weights().items())
    if late_phase == "batchnorm":
        assert not torch.equal(late.members["bn2.running_mean"][0], late.members["bn2.running_mean"][1])


def test_measuring_and_stopping_change_nothing(tmp_path, composed):
    """Stopped in the epoch before T0 and in the one after it."""
    overrides = (*CHOICES, *TINY, "late_phase.sigma0=0.1")
    often, rare = tmp_path / "often" / "a" / "seed=0", tmp_path / "rare" / "a" / "seed=0"
    run(composed(*overrides), often)
    run_until(5, composed(*overrides, "runtime.evaluate_every=0"), rare)
    assert all(group["train_mode"] for group in torch.load(rare / "checkpoint.pt")["late"]["optimizer"]["param_groups"])
    run_until(8, composed(*overrides, "runtime.evaluate_every=0"), rare)
    run(composed(*overrides, "runtime.evaluate_every=0"), rare)
    for name in ("model.safetensors", "members.safetensors"):
        assert (often / name).read_bytes() == (rare / name).read_bytes()
    last = history(often)[-1]
    metrics = json.loads((often / "metrics.json").read_text())["metrics"]["single"]
    assert float(last["test_nll_nats"]) == pytest.approx(metrics["test_nll"], rel=1e-5)


def test_without_its_package_a_sentence_says_what_to_install(main, monkeypatch):
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    status, _ = main(*CHOICES, *TINY)
    assert status == (
        "error: optimizer=schedule_free needs the package schedulefree: run `pip install 'late-phase[schedule-free]'` or choose "
        "optimizer=sgd."
    )
