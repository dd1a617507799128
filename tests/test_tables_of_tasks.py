"""Tables of several tasks: rows that differ only in the task stand in one line, with p values in its cells."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy.stats import ttest_rel

from late_phase.reporting.numbers import Numbers, collect
from late_phase.reporting.table_config import read_table
from late_phase.reporting.tables import as_csv, cells, comparisons
from late_phase.support.errors import UserError

OWN = """
title: Two tasks
place: Mine
seeds: [0, 1, 2]
against: [Base, EMA]
columns:
  images: {task: ConvNet, title: "images: accuracy (%)", metric: test_accuracy, factor: 100, digits: 1}
  seconds: {task: ConvNet, title: seconds, metric: seconds, record: true, compared: false}
  text: {task: LSTM, title: "text: bits", metric: test_bpc, digits: 3, more_is_better: false}
rows:
  - {name: Base, task: ConvNet, experiment: a}
  - {name: Base, task: LSTM, experiment: b}
  - {name: EMA, task: ConvNet, experiment: a}
  - {name: EMA, task: LSTM, experiment: b}
  - {name: Late, task: LSTM, experiment: c}
"""
VALUES = {
    "Base, ConvNet": {"images": {0: 70.0, 1: 71.0, 2: 72.5}, "seconds": {0: 9.0, 1: 9.0, 2: 12.0}},
    "Base, LSTM": {"text": {0: 2.0, 1: 2.1, 2: 2.3}},
    "EMA, ConvNet": {"images": {0: 71.0, 1: 72.1, 2: 73.6}, "seconds": {0: 10.0, 1: 10.0, 2: 10.0}},
    "EMA, LSTM": {"text": {0: 1.9, 1: 2.1, 2: 2.1}},
    "Late, LSTM": {"text": {0: 2.2, 1: 2.2, 2: 2.4}},
}


def a_file(folder: Path, text: str = OWN) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_each_cell_has_its_own_tests_and_each_line_its_tasks(tmp_path):
    table = read_table(a_file(tmp_path))
    results = {name: Numbers(values, [], 3, 3) for name, values in VALUES.items()}

    def p(row: str, against: str, key: str) -> float:
        pair = [list(VALUES[f"{name}, {'LSTM' if key == 'text' else 'ConvNet'}"][key].values()) for name in (row, against)]
        return ttest_rel(*pair).pvalue

    ema = {key: p("EMA", "Base", key) for key in ("images", "text")}
    assert ema["images"] < 0.001 < ema["text"]
    assert cells(table, results) == [
        ["", "images: accuracy (%)", "seconds", "text: bits", "n"],
        ["Base", "71.2 ± 1.3 (–; p < 0.001)", "10.00 ± 1.73", f"2.133 ± 0.153 (–; p = {ema['text']:.2g})", "3"],
        ["EMA", "72.2 ± 1.3 (p < 0.001; –)", "10.00 ± 0.00", f"2.033 ± 0.115 (p = {ema['text']:.2g}; –)", "3"],
        ["Late", "", "", f"2.267 ± 0.115 (p = {p('Late', 'Base', 'text'):.2g}; p = {p('Late', 'EMA', 'text'):.2g})", "3"],
    ]
    found = [(own.row, own.against, own.key) for own in comparisons(table, results)]
    assert found == [
        ("EMA, ConvNet", "Base, ConvNet", "images"),
        ("EMA, LSTM", "Base, LSTM", "text"),
        ("Late, LSTM", "Base, LSTM", "text"),
        ("Late, LSTM", "EMA, LSTM", "text"),
    ]
    assert [line.split(",text,")[0] for line in as_csv(table, results).splitlines() if ",text," in line] == [
        '"Base, LSTM"',
        '"EMA, LSTM"',
        '"Late, LSTM"',
    ]


def test_a_row_has_the_numbers_of_its_task_only(tmp_path):
    table = read_table(a_file(tmp_path))
    found = collect(table, table.rows[1], tmp_path, [0], [], 1)
    assert found.values == {"text": {}} and not found.impossible


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name: EMA, task: LSTM", "name: Other, task: LSTM"), "Base, LSTM is compared with EMA, LSTM, which is not a row"),
        (("name: Late, task: LSTM", "name: Late, task: GPT"), "Late, GPT has no column of its task"),
        (("name: Late, task: LSTM", "name: EMA, task: LSTM"), "several rows have the name EMA, LSTM"),
        (
            ("experiment: c}", "experiment: c, paper: {images: [1.0]}}"),
            "Late, LSTM has the paper's number for images, which is",
        ),
    ],
)
def test_a_row_that_does_not_fit_the_tasks_is_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        read_table(a_file(tmp_path, OWN.replace(*change)))
