"""Passes of several members in a run."""

from __future__ import annotations

import pytest
import torch
from double import double_precision
from runs import TINY, history, run_until
from safetensors.torch import load_file

from late_phase.support.errors import UserError
from late_phase.training.inner_steps import of_one_pass
from late_phase.training.loop import run


class Entered:
    """Stands for ``LatePhase``: K members, of which one is entered."""

    def __init__(self, K: int, entered: int | None = 0) -> None:
        self.K, self.entered = K, entered


def sizes(lengths: list[int], late: Entered, most: int) -> list[int]:
    """The number of minibatches in each pass, for minibatches of these lengths."""
    found = []
    for group in of_one_pass([(torch.zeros(n), torch.zeros(n)) for n in lengths], late, most):
        found.append(len(group))
        if late.entered is not None:
            late.entered = (late.entered + len(group)) % late.K
    return found


def test_a_pass_holds_members_of_one_iteration_and_minibatches_of_one_shape():
    assert sizes([8] * 6, Entered(3, entered=None), 3) == [1] * 6, "before T0"
    assert sizes([8] * 7, Entered(3), 3) == [3, 3, 1]
    assert sizes([8] * 7, Entered(3, entered=1), 3) == [2, 3, 2]
    assert sizes([8] * 7, Entered(5), 2) == [2, 2, 1, 2]
    assert sizes([8, 8, 8, 5], Entered(4), 4) == [3, 1], "the last minibatch of an epoch is smaller"


@pytest.mark.parametrize("parallel", [2, 3])
@double_precision()
def test_a_run_in_passes_is_the_run_of_single_steps(parallel, composed, tmp_path):
    run(composed(*TINY), tmp_path / "one")
    run_until(20, composed(*TINY), tmp_path / "two")  # within an iteration, with single steps
    for name in ("two", "three"):
        run(composed(*TINY, f"late_phase.parallel_members={parallel}"), tmp_path / name)
        expected, found = (load_file(tmp_path / run / "members.safetensors") for run in ("one", name))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
        assert any(found[key].ne(expected[key]).any() for key in found), "it ran in passes"
        for row, other in zip(history(tmp_path / name), history(tmp_path / "one"), strict=True):
            assert float(row["train_loss_nats"]) == pytest.approx(float(other["train_loss_nats"]), rel=1e-6)


def test_a_stopped_run_in_passes_ends_with_the_same_bytes(composed, tmp_path):
    config = composed(*TINY, "late_phase.parallel_members=3", "architecture.dropout=0.3")
    run(config, tmp_path / "one")
    run_until(18, config, tmp_path / "two")  # within a pass, which ends first
    run(config, tmp_path / "two")
    assert (tmp_path / "one" / "members.safetensors").read_bytes() == (tmp_path / "two" / "members.safetensors").read_bytes()
    assert history(tmp_path / "one") == history(tmp_path / "two")


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["late_phase.parallel_members=0"], "late_phase.parallel_members=0 .*at least 1"),
        (["late_phase.parallel_members=4"], "parallel_members=4 is more than late_phase.K=3: choose at most K"),
        (["late_phase=accumulation", "late_phase.parallel_members=2"], "late_phase=accumulation has none: choose 1"),
        (["late_phase.parallel_members=2", "max_grad_norm=1"], "max_grad_norm=1.0 can't clip each"),
        (["late_phase.parallel_members=2", "compute.compile=true"], "choose 1, or compute.compile=false"),
    ],
)
def test_refuses_passes_that_would_be_wrong(overrides, why, composed):
    with pytest.raises(UserError, match=why):
        composed(*TINY, *overrides)


def test_refuses_an_lstm_before_training(composed, tmp_path):
    text = ("+experiment=pydocs_lstm_lprank1", "+debug=smoke_text", "late_phase.parallel_members=2")
    with pytest.raises(
        UserError, match=r"parallel_members=2 needs minibatches that don't depend on each other: set dataset\.carry_state"
    ):
        run(composed(*text), tmp_path)
    with pytest.raises(UserError, match="architecture=lstm: this model can't train several members in one pass"):
        run(composed(*text, "dataset.carry_state=false"), tmp_path)
