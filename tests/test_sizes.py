"""What doesn't fit into the memory is refused before it is taken, and counted as it is taken."""

from __future__ import annotations

import re
import time

import pytest
import torch
from runs import TINY, StopAfter
from torch import nn

from late_phase.architectures import build, parameters
from late_phase.methods.batch_ensemble import check_fast_weights
from late_phase.methods.late_phase import member_weights
from late_phase.support import memory
from late_phase.support.errors import UserError
from late_phase.support.memory import NUMBER, OBJECT
from late_phase.training import setup
from late_phase.training.loop import run

CPU = torch.device("cpu")
BASE = ("late_phase=none", "late_phase.T0=null")
TEXT = ("dataset=pydocs", "architecture=lstm", *BASE)

WRN, PYRAMID, SWAG = "architecture=wrn", "architecture=pyramidnet", ("averaging=swag", "averaging.start=1")
ENSEMBLE = (*BASE, "ensemble=batch_ensemble")
MANY = 10**9

TOO_LARGE = {
    "a width": ([WRN, "architecture.width=1000000"], r"architecture=wrn, depth=28, width=1000000, .* parameters"),
    "a width beyond counting": ([WRN, f"architecture.width={10**23}"], f"architecture=wrn, depth=28, width={10**23}, "),
    "a depth": ([WRN, "architecture.depth=6000004"], r"architecture=wrn, depth=6000004, width=10, "),
    "a depth beyond counting": ([WRN, f"architecture.depth={6 * 10**23 + 4}"], f"architecture=wrn, depth={6 * 10**23 + 4}, "),
    "an alpha": ([PYRAMID, "architecture.alpha=10000000"], "architecture=pyramidnet, depth=110, alpha=10000000, "),
    "a pyramid's depth": ([PYRAMID, "architecture.depth=6000002"], "architecture=pyramidnet, depth=6000002, "),
    "units": ([*TEXT, "architecture.units=1000000"], r"architecture=lstm, units=1000000 with [\d,]{17} parameters"),
    "an embedding": ([*TEXT, f"architecture.embedding={10**12}"], f"architecture=lstm, units=500, embedding={10**12} with "),
    "a GPT's depth": (
        ["dataset=pydocs", "architecture=gpt", *BASE, f"architecture.depth={10**9}"],
        f"architecture=gpt, depth={10**9}, ",
    ),
    "members": ([f"late_phase.K={MANY}", "late_phase.gamma_theta=0"], rf"late_phase\.K={MANY}"),
    "members of a text": (
        ["+experiment=pydocs_lstm_lprank1", f"late_phase.K={MANY}", "late_phase.gamma_theta=0"],
        rf"late_phase\.K={MANY}",
    ),
    "members of nothing": (["late_phase=accumulation", f"late_phase.K={10**12}", f"epochs={10**12}"], rf"late_phase\.K={10**12}"),
    "an ensemble in the model": ([*ENSEMBLE, f"ensemble.K={MANY}"], rf"batch_size=32 with ensemble\.K={MANY}"),
    "deviations": ([*BASE, *SWAG, f"averaging.rank={MANY}", f"epochs={MANY}"], rf"averaging\.rank={MANY}"),
    "a minibatch of images": ([WRN, "architecture.depth=16", "batch_size=1437"], "batch_size=1437"),
    "a minibatch of text": ([*TEXT, "batch_size=100000", "dataset.sequence_length=4"], "batch_size=100000"),
}


@pytest.fixture(scope="module", autouse=True)
def imported(composed):
    """What a run imports, which isn't what is timed."""
    setup.build(composed("dataset.subset=64"), CPU)
    parameters("wrn", 1, 10, depth=10, width=1)


@pytest.mark.parametrize("case", TOO_LARGE)
def test_what_is_too_large_is_one_sentence_at_once(main, tmp_path, monkeypatch, case):
    monkeypatch.setattr(memory, "available_memory", lambda: 8 * 2**30)
    monkeypatch.setattr("late_phase.training.loop.train", lambda *arguments: pytest.fail("trained"))
    arguments, what = TOO_LARGE[case]
    began = time.process_time()
    status, output = main(*arguments)
    needs = r"needs about [\d.,]+ GiB of memory( or more)?, and this machine has 8\.0 GiB: choose (a )?smaller .*\."
    assert re.fullmatch(f"error: {what}.* {needs}", status), status
    assert not output and not (tmp_path / "outputs").exists()
    assert time.process_time() - began < 2


def test_weights_to_evaluate_are_of_a_model_that_fits(main, tmp_path):
    weights = ("dataset=digits", "architecture.weights=mine.pt", "to=x", WRN, "architecture.width=1000000")
    status, _ = main(*weights, script="scripts/evaluate.py")
    assert (
        str(status).startswith("error: architecture=wrn, depth=28, width=1000000, dropout=0.0 with ") and " GiB: choose " in status
    )
    assert not list(tmp_path.iterdir())


@pytest.fixture
def asked(monkeypatch):
    """What is asked of the memory: what it is for, and bytes."""
    asked: dict[str, int] = {}
    for module in ("architectures", "methods.late_phase", "methods.batch_ensemble", "methods.swag", "training.setup"):
        monkeypatch.setattr(f"late_phase.{module}.check_memory", lambda what, needed, cure: asked.update({what: needed}))
    return asked


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("kind", ["batchnorm", "rank1", "hypernetwork", "head", "full"])
def test_members_are_counted_as_they_are_stored(composed, tmp_path, asked, kind, optimizer):
    config = composed(
        *TINY[:-4], f"late_phase={kind}", "late_phase.K=3", "late_phase.T0=0", f"optimizer={optimizer}", "optimizer.lr=0.01"
    )
    parts = setup.build(config, CPU)
    late = parts.trained.late
    for inputs, labels in parts.batches.epoch(0):
        nn.functional.cross_entropy(late.model(inputs), labels).backward()
        late.step()
        if not late.spawned:
            late.spawn()
    states = [value for state in late._live.members.states for own in state.values() for value in own.values()]
    counts = len([value for value in states if value.dim() == 0])  # Adam counts its steps
    taken = sum(value.numel() for value in member_weights(late).values()) + sum(value.numel() for value in states) - counts
    assert 0 < taken * NUMBER <= asked["late_phase.K=3"] <= taken * NUMBER + 3 * OBJECT * (1 + 3 * len(late.phi) + 12)


def test_members_that_never_come_need_no_memory(composed, asked):
    for end in ("late_phase.T0=60", "late_phase=none late_phase.T0=null"):
        setup.build(composed("dataset.subset=64", *end.split()), CPU)
        assert not any("late_phase.K" in what for what in asked)


def test_the_model_is_counted_with_all_that_is_as_large(composed, asked):
    """Weights, gradients, momentum or Adam's two moments, the single model; the average."""
    count = sum(p.numel() for p in build("lenet", 1, 10).parameters())
    cases = {4: (), 5: ("optimizer=adam",), 6: ("optimizer=adam", "averaging=swa", "averaging.start=1")}
    for copies, changes in cases.items():
        setup.build(composed("dataset.subset=64", *BASE, *changes), CPU)
        network = f"architecture=lenet, pooling=max, pooling_first=False, dropout=0.0 with {count:,} parameters"
        assert asked.pop(network) == NUMBER * copies * count


def test_fast_weights_are_counted_as_they_are(composed, asked):
    late = setup.build(composed("dataset.subset=64", *ENSEMBLE, "ensemble.K=5"), CPU).trained.late
    named = dict(late.model.named_parameters())
    fast = [p for name, p in named.items() if re.search(r"\.[rs]$", name) or (name.endswith(".bias") and p.dim() == 2)]
    assert len(fast) == 15 and asked["ensemble.K=5"] == NUMBER * 4 * sum(p.numel() for p in fast)


def test_fast_weights_that_do_not_fit_are_refused_where_minibatches_are_elsewhere(composed, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 8 * 2**30)
    with pytest.raises(UserError, match=rf"ensemble\.K={MANY} needs about .*: choose a smaller one\."):
        check_fast_weights(composed(*ENSEMBLE, f"ensemble.K={MANY}"), build("lenet", 1, 10))


def test_deviations_are_not_more_than_updates(composed, asked):
    for rank, kept in ((10**9, 7), (3, 3)):
        swag = ("averaging=swag", "averaging.start=3", f"averaging.rank={rank}", "epochs=10")
        late = setup.build(composed("dataset.subset=64", *BASE, *swag), CPU).trained.late
        count = sum(p.numel() for p in late.model.parameters())
        assert asked[f"averaging.rank={rank}"] == NUMBER * (5 + 1 + kept) * count  # and the squares


def test_activations_are_those_of_the_layers(composed, asked):
    setup.build(composed("dataset.subset=64", "batch_size=16"), CPU)
    one = 2 * (6 * 28 * 28 + 16 * 10 * 10 + 120 + 84) + 10
    assert asked["batch_size=16"] == NUMBER * 16 * one
    setup.build(composed("dataset.subset=64", "batch_size=16", *ENSEMBLE, "ensemble.K=5"), CPU)
    assert asked["batch_size=16 with ensemble.K=5"] == 5 * asked["batch_size=16"]
    setup.build(
        composed(*TEXT, "batch_size=16", "dataset.sequence_length=10", "architecture.units=7", "architecture.embedding=5"), CPU
    )
    symbols = asked["batch_size=16"] / (NUMBER * 16 * 10) - 5 - 16 * 7
    assert symbols % 3 == 0 and 90 < symbols / 3 <= 256


def test_counting_draws_nothing(composed):
    """The weights are those that the architecture alone draws, and so is what is drawn after them."""
    torch.manual_seed(5)
    expected, after = build("wrn", 1, 10, depth=10, width=1, dropout=0.1), torch.rand(3)
    torch.manual_seed(5)
    changes = ("architecture=wrn", "architecture.depth=10", "architecture.width=1", "architecture.dropout=0.1")
    parts = setup.build(composed("dataset.subset=64", *changes), CPU)
    assert torch.equal(torch.rand(3), after)
    for name, value in expected.state_dict().items():
        assert torch.equal(parts.trained.late.model.state_dict()[name], value), name
    assert parts.trained.late.model.training


@pytest.mark.parametrize("epochs", [10**9, 10**30])
def test_epochs_take_no_memory(composed, tmp_path, monkeypatch, epochs):
    StopAfter(monkeypatch, 3)
    rare = (f"runtime.evaluate_every={epochs}", f"runtime.checkpoint_every={epochs}")
    with pytest.raises(SystemExit):
        run(composed(*TINY, f"epochs={epochs}", f"late_phase.T0={epochs - 1}", *rare), tmp_path / "run")
