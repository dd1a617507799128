"""Early stopping by itself. tests/test_table_runs.py has it in runs."""

from __future__ import annotations

import math

import pytest

from late_phase.training.stopping import EarlyStopping


def chosen(composed, values: list[float], *overrides: str) -> int | None:
    """The epoch that is chosen for these validation losses, one for each epoch."""
    config = composed("epochs=9", "dataset.validation=20", "late_phase.T0=2", "patience=3", *overrides)
    stopping = EarlyStopping(config, "validation_nll_nats")
    for epoch, value in enumerate(values, 1):
        stopping.consider({"epoch": epoch, "validation_nll_nats": value}, dict)
    return stopping.best and stopping.best["epoch"]


@pytest.mark.parametrize(
    ("values", "overrides", "epoch"),
    [
        ([0.1, 0.1, 0.5, 0.4, 0.6], [], 4),
        ([0.1, 0.1, math.nan, 0.4, 0.6], [], 4),
        ([0.1, 0.1, math.nan, math.inf], [], None),
        ([0.1, 0.1, 0.5, 0.4, 0.6, 0.7], ["averaging=swa", "averaging.start=4"], 5),
        ([0.1, 0.1, 0.5, 0.6], ["averaging.start=4"], 3),
    ],
)
def test_the_best_finite_epoch_with_members_and_averages_is_chosen(values, overrides, epoch, composed):
    assert chosen(composed, values, *overrides) == epoch
