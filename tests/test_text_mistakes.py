"""Mistakes with texts are answered in one sentence before anything is written."""

from __future__ import annotations

import pytest
from runs import files_in

from late_phase.support.errors import UserError
from late_phase.training.loop import run

MISTAKES = {
    "a short text": (["batch_size=100", "dataset.subset=550"], r"need 10001 bytes to train on, but pydocs has 550: choose smaller"),
    "a directory": (
        ["dataset=text_file", "dataset.path=."],
        r"^dataset\.path=\. is a directory or a device: give a file of text\.",
    ),
    "no file": (["dataset=text_file", "dataset.path=none"], r"^dataset\.path=none can't be read \(No such file"),
    "an image model": (
        ["architecture=lenet"],
        r"^architecture=lenet with dataset=pydocs can't work: choose architecture=lstm, gpt for",
    ),
    "images": (["dataset=digits"], r"^architecture=lstm with dataset=digits can't work: choose another architecture, or"),
    "no length": (["dataset.sequence_length=0"], r"^dataset\.sequence_length=0 is out of range"),
    "no norm": (["max_grad_norm=0"], r"^max_grad_norm=0\.0 is out of range: choose a number above 0, or null for no clipping\."),
    "no units": (["architecture.units=0"], r"^architecture=lstm with dataset=pydocs: architecture\.units=0 is out of range"),
    "no matrix": (
        ["late_phase=rank1", "late_phase.T0=1", "late_phase.matrices=x"],
        r"matrices='x' matches none of the weights lstm\.weight_hh_l0",
    ),
    "LoRA on the embedding": (
        ["architecture=gpt", "late_phase=lora", "late_phase.T0=1"],
        r"^late_phase=lora with architecture=gpt: embedding\.weight and head\.weight are one parameter: .*, or leave it out\.$",
    ),
    "LoRA without a linear layer of that name": (
        ["late_phase=lora", "late_phase.T0=1", "late_phase.matrices=lstm.*"],
        r"matrices='lstm\.\*' matches none of the weights head\.weight",
    ),
    "a rank that is too large": (
        ["late_phase=lora", "late_phase.T0=1", "late_phase.rank=1000"],
        r"rank=1000 is out of range for these weights: choose from 1 to \d+\.$",
    ),
    "no rank": (["late_phase=lora", "late_phase.T0=1", "late_phase.rank=0"], r"^late_phase\.rank=0 is out of range"),
    "no alpha": (["late_phase=lora", "late_phase.T0=1", "late_phase.alpha=0"], r"^late_phase\.alpha=0\.0 is out of range"),
    "no BatchNorm": (
        ["late_phase=batchnorm", "late_phase.T0=1", "architecture.units=5"],
        r"batchnorm\(\) matches no parameter of LSTM",
    ),
    "BatchEnsemble": (["ensemble=batch_ensemble"], r"layer lstm is of type LSTM, for which fast weights are not defined"),
    "an image model for a GPT": (
        ["architecture=gpt", "dataset=digits"],
        r"^architecture=gpt with dataset=digits can't work: choose",
    ),
    "another context": (
        ["architecture=gpt", "architecture.context=50"],
        r"^architecture\.context=50 differs from dataset\.sequence_length=100, the length .*: set both to the same number\.$",
    ),
    "heads": (["architecture=gpt", "architecture.heads=3"], r"architecture\.width=128 is not a multiple of architecture\.heads=3"),
    "minibatches of streams": (
        ["dataset.minibatches=3"],
        r"^dataset\.minibatches=3 is for models that read random windows, but architecture=lstm reads .*: leave it out\.$",
    ),
    "no minibatch": (["architecture=gpt", "dataset.minibatches=0"], r"^dataset\.minibatches=0 is out of range"),
    "a window that is longer than the text": (
        ["architecture=gpt", "dataset.subset=99"],
        r"^batch_size=128 windows of dataset\.sequence_length=100 need 12801 bytes to train on, but pydocs has 99: choose smaller",
    ),
    "BatchEnsemble of a GPT": (
        ["architecture=gpt", "ensemble=batch_ensemble"],
        r"embedding\.weight and head\.weight are one parameter",
    ),
    "no subset": (["dataset.subset=1"], r"^dataset\.subset=1 is out of range"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_one_sentence(mistake, tmp_path, composed):
    own, pattern = MISTAKES[mistake]
    directory = tmp_path / "a" / "b" / "seed=0"
    with pytest.raises(UserError, match=pattern) as error:
        run(composed("+experiment=enwik8_lstm_base", "dataset=pydocs", *own), directory)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
    assert not files_in(directory)
