"""The schedules in ``configs/schedule``, epoch by epoch, around each break."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from late_phase.config import choices
from late_phase.optimization.schedules import Schedule
from late_phase.support.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs" / "schedule"


def schedule(name: str) -> Schedule:
    config = OmegaConf.create({"epochs": 200, "schedule": OmegaConf.load(CONFIGS / f"{name}.yaml")})
    options = OmegaConf.to_container(config.schedule, resolve=True)
    options.pop("defaults")
    return choices.build("schedule", **options)


PAPER = {
    "wrn_sgd": {0: 1, 1: 1, 99: 1, 100: 1, 101: 1 - 0.99 / 80, 140: 0.505, 179: 0.01 + 0.99 / 80, 180: 0.01, 181: 0.01, 199: 0.01},
    "wrn_swa": {0: 1, 79: 1, 80: 1, 81: 1 - 0.5 / 64, 112: 0.75, 143: 0.5 + 0.5 / 64, 144: 0.5, 145: 0.5, 199: 0.5},
    "lenet_sgd": {0: 1, 99: 1, 100: 1, 101: 1 - 0.99 / 60, 130: 0.505, 159: 0.01 + 0.99 / 60, 160: 0.01, 161: 0.01, 199: 0.01},
    "multistep": {0: 1, 8: 1, 9: 1, 10: 0.1, 11: 0.1, 99: 0.1},
    "wrn14_swa": {0: 1, 79: 1, 80: 1, 81: 1 - 0.5 / 160, 160: 0.75, 240: 0.5, 299: 0.5},
    "wrn_finetune": {0: 1, 1: 0.91, 9: 0.19, 10: 0.1, 19: 0.1},
    "pyramidnet": {0: 1, 149: 1, 150: 0.1, 224: 0.1, 225: 0.01, 299: 0.01},
    "batch_ensemble": {0: 0, 0.25: 0.25, 1: 1, 99: 1, 100: 0.2, 199: 0.2, 200: 0.04, 224: 0.04, 225: 0.008, 249: 0.008},
    "digits_swa": {0: 1, 24: 1, 25: 1 - 0.5 / 19, 43: 0.5, 59: 0.5},
    "digits": {0: 1, 30: 1, 31: 1 - 0.99 / 24, 42: 0.505, 54: 0.01, 59: 0.01},
    "constant": {0: 1, 1: 1, 199: 1, 10_000: 1},
    "cosine": {0: 0, 0.5: 0.5, 1: 1, 100.5: 0.55, 199: 0.1 + 0.45 * (1 - math.cos(math.pi / 199)), 200: 0.1, 201: 0.1},
}
"""Epochs completed -> factor, from the text of Appendix A."""


@pytest.mark.parametrize("name", PAPER)
def test_factors_around_each_break(name):
    factor = schedule(name)
    assert {epoch: factor(epoch) for epoch in PAPER[name]} == pytest.approx(PAPER[name], rel=1e-12)
    assert all(type(factor(epoch)) is float for epoch in PAPER[name])


def test_every_config_is_tested():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(PAPER)


@pytest.mark.parametrize(
    ("name", "first", "last", "end"), [("wrn_sgd", 100, 180, 0.01), ("wrn_swa", 80, 144, 0.5), ("lenet_sgd", 100, 160, 0.01)]
)
def test_the_decay_has_equal_steps(name, first, last, end):
    factor = schedule(name)
    steps = [factor(epoch) - factor(epoch + 1) for epoch in range(201)]
    expected = [(1 - end) / (last - first) if first <= epoch < last else 0 for epoch in range(201)]
    assert steps == pytest.approx(expected, abs=1e-12)


def test_the_constant_part_and_the_end_are_exact():
    """Not to rounding: plain training at the full rate is to be plain."""
    for name, (first, last, end) in {"wrn_sgd": (100, 180, 0.01), "wrn_swa": (80, 144, 0.5), "lenet_sgd": (100, 160, 0.01)}.items():
        factor = schedule(name)
        assert {factor(epoch) for epoch in range(first + 1)} == {1.0}
        assert {factor(epoch) for epoch in range(last, 300)} == {end}


def test_piecewise_linear_has_any_number_of_points():
    factor = choices.build("schedule", "piecewise_linear", epochs=[2, 4, 8], factors=[0.5, 1.0, 0.0])
    assert [factor(epoch) for epoch in range(10)] == [0.5, 0.5, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_multistep_has_any_number_of_steps():
    factor = choices.build("schedule", "multistep", epochs=[1, 3, 4], factors=[0.5, 0.25, 2.0])
    assert [factor(epoch) for epoch in range(6)] == [1.0, 0.5, 0.5, 0.25, 2.0, 2.0]


def test_cosine_is_the_one_of_torch():
    """Without warm-up, in 10 epochs of 4 minibatches."""
    optimizer = torch.optim.SGD([torch.zeros(1)], 1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40, eta_min=0.2)
    ours = choices.build("schedule", "cosine", epochs=10, last=0.2)
    for step in range(40):
        assert ours(step / 4) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        theirs.step()
    assert ours(10) == ours(11.5) == 0.2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.warmup=60", r"^schedule\.epochs=60 leaves no epoch after schedule\.warmup=60: choose a shorter warm-up\.$"),
        ("schedule.warmup=-1", r"^schedule\.warmup=-1 is out of range"),
        ("schedule.last=-0.1", r"^schedule\.last=-0\.1 is out of range"),
    ],
)
def test_values_that_make_no_cosine(composed, override, message):
    with pytest.raises(UserError, match=message):
        composed("schedule=cosine", override)


def test_within_an_epoch_only_warmup_moves():
    assert schedule("wrn_sgd")(140.9) == schedule("wrn_sgd")(140)
    assert schedule("pyramidnet")(149.99) == 1
    warm = choices.build("schedule", "multistep", epochs=[3], factors=[0.5], warmup=4)
    assert [warm(epoch) for epoch in (0.0, 1.5, 3.0, 3.5, 4.0)] == [0.0, 0.375, 0.375, 0.4375, 0.5]
