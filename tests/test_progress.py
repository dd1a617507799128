"""Numbers as they are printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from late_phase.reporting.runs import Run, table
from late_phase.reporting.statistics import mean_and_std
from late_phase.reporting.suite_tables import suite_table
from late_phase.tasks.images import ImageTask
from late_phase.tasks.text import TextTask
from late_phase.training.progress import report

SMALL = -1e-9


@pytest.mark.parametrize("value", [SMALL, -0.0, 0.0])
def test_what_rounds_to_zero_has_no_sign(tmp_path, capsys, value):
    images = {"test_accuracy": value, "test_nll": value, "test_ece": value, "train_loss": value}
    text = {"train_bpc": value, "validation_bpc": value, "test_bpc": value}
    report({"metrics": {"single": images}}, tmp_path, ImageTask.in_words)
    report({"metrics": {"swa": text}}, tmp_path, TextTask.in_words)
    record = {"experiment": "e", "variant": "default", "seed": 0, "metrics": {"single": images, "swa": text}}
    print(table([Run(Path(), record, [], None)]))
    print(mean_and_std([value, -value], 3))
    suite = {"suite": "calibration", "dataset": "digits", "metrics": {"single": {"nll": -0.0, "ece": -0.0}}}
    print(suite_table(suite))
    curve = {"sigmas": [-0.0], "mean": [-0.0], "confidence": [0.0]}
    print(suite_table({"suite": "flatness", "dataset": "digits", "metrics": {"single": curve}}))
    output = capsys.readouterr().out.replace(str(tmp_path), "")
    assert "-0" not in output
    assert "test accuracy 0.00%, NLL 0.0000 nats, ECE 0.00%, training loss 0.0000 nats" in output
    assert "train 0.0000, validation 0.0000, test 0.0000 bits per character" in output
    assert "\n0.000 ± 0.000\n" in output


def test_what_does_not_round_to_zero_keeps_its_sign(capsys):
    print(mean_and_std([-0.06], 1), suite_table({"suite": "ood", "dataset": "digits", "metrics": {"single": {"nll": -2e-9}}}))
    output = capsys.readouterr().out
    assert output.startswith("-0.1 ") and "| -2e-09 |" in output
