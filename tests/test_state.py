"""Sums over minibatches of different sizes against one computation over all examples."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from late_phase.tasks.objective import Classification
from late_phase.training.state import SYNCHRONIZE_EVERY, EpochSums, NonFiniteLoss


def fill(sums: EpochSums, losses: list[float], first: int = 0) -> int | None:
    """Adds minibatches of two examples with these losses; returns the index at which it was refused."""
    for i, loss in enumerate(losses, first):
        try:
            sums.add(torch.tensor(loss), torch.tensor(1), 2)
        except NonFiniteLoss:
            return i
    return None


@pytest.mark.parametrize("batches", [1, SYNCHRONIZE_EVERY - 1, SYNCHRONIZE_EVERY, 2 * SYNCHRONIZE_EVERY + 3])
def test_loss_and_accuracy_are_those_over_all_examples(batches):
    random = torch.Generator().manual_seed(0)
    sums, objective, all_logits, all_labels = EpochSums(), Classification(), [], []
    for i in range(batches):
        n = 1 + i % 7
        logits = torch.randn(n, 4, generator=random, requires_grad=True)
        labels = torch.randint(4, (n,), generator=random)
        sums.add(objective.loss(logits, labels), objective.correct(logits, labels), n)
        all_logits.append(logits)
        all_labels.append(labels)
    logits, labels = torch.cat(all_logits).double(), torch.cat(all_labels)
    sums.synchronize()
    sums.synchronize()
    assert (sums.batches, sums.examples) == (batches, len(labels))
    assert sums.loss == pytest.approx(F.cross_entropy(logits, labels, reduction="sum").item(), rel=1e-6)
    assert sums.correct == (logits.argmax(1) == labels).sum().item()
    assert sums.means() == (sums.loss / len(labels), sums.correct / len(labels))


def test_the_state_goes_on_from_the_middle():
    whole, first = EpochSums(), EpochSums()
    losses = [0.5 * i for i in range(70)]
    fill(whole, losses)
    fill(first, losses[:23])
    second = EpochSums(**first.state_dict())
    fill(second, losses[23:], first=23)
    assert second.state_dict() == whole.state_dict()
    assert whole.state_dict() == {"batches": 70, "examples": 140, "loss": 2 * sum(losses), "correct": 70}


def test_an_empty_sums():
    sums = EpochSums()
    sums.synchronize()
    assert sums.state_dict() == {"batches": 0, "examples": 0, "loss": 0.0, "correct": 0}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("batch", [0, 1, 49, 50, 99, 117])
def test_the_first_loss_that_is_not_finite_is_named(value, batch):
    """Later ones, too, aren't, as is to be expected; and it is noticed within the next ``SYNCHRONIZE_EVERY``."""
    sums = EpochSums()
    assert fill(sums, [1.0] * batch) is None
    noticed = None
    try:
        for i in range(SYNCHRONIZE_EVERY):
            sums.add(torch.tensor(value if i == 0 else math.nan), torch.tensor(1), 2)
    except NonFiniteLoss as error:
        noticed = error
    assert noticed is not None
    assert noticed.batch == batch
    assert noticed.value == pytest.approx(value, nan_ok=True)
    assert str(value) in str(noticed) and str(batch) in str(noticed)
    assert (sums.batches, sums.loss) == (batch, 2.0 * batch)


def test_the_end_of_an_epoch_and_a_checkpoint_notice_it():
    for notice in (EpochSums.synchronize, EpochSums.state_dict):
        sums = EpochSums()
        fill(sums, [1.0, math.nan])
        with pytest.raises(NonFiniteLoss) as error:
            notice(sums)
        assert error.value.batch == 1


def test_counting_goes_on_after_resuming():
    """The number of the minibatch is that in its epoch, not since the start of the process."""
    sums = EpochSums(batches=30, examples=60, loss=3.0, correct=10)
    fill(sums, [1.0, math.inf])
    with pytest.raises(NonFiniteLoss) as error:
        sums.synchronize()
    assert error.value.batch == 31


def test_no_graph_is_kept():
    weight = torch.ones(3, requires_grad=True)
    sums = EpochSums()
    outputs, labels = weight.expand(2, 3), torch.tensor([0, 1])
    sums.add((weight**2).sum(), Classification().correct(outputs, labels), 2)
    assert not any(tensor.requires_grad for entry in sums._pending for tensor in entry[1:])


def test_half_precision_is_summed_in_full():
    sums = EpochSums()
    for _ in range(100):
        correct = Classification().correct(torch.eye(2).bfloat16(), torch.tensor([0, 1]))
        sums.add(torch.tensor(0.1, dtype=torch.bfloat16), correct, 2)
    sums.synchronize()
    assert sums.loss == pytest.approx(200 * torch.tensor(0.1, dtype=torch.bfloat16).item(), rel=1e-12)
    assert sums.correct == 200
