"""Figures drawn of a table's numbers, and the numbers that are lines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from late_phase.reporting import figures
from late_phase.reporting.numbers import Numbers, collect
from late_phase.reporting.table_config import Column, Row, Table

EPOCHS = Column("test accuracy (%)", "test_accuracy", x="epoch", factor=100)
FLATNESS = Column("mean δL (nats)", "mean", "flatness", x="sigmas", over=[0, float("inf")], axis="δL (nats)")
HISTORY = "epoch,test_accuracy\n1,0.1\n2,\n3,{}\n"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in (0, 1):
        folder = tmp_path / f"seed={seed}"
        (folder / "evaluation").mkdir(parents=True)
        (folder / "history.csv").write_text(HISTORY.format(0.3 + seed))
        (folder / "metrics.json").write_text(json.dumps({"seconds": 1.0, "metrics": {"single": {"test_accuracy": 0.3}}}))
        flatness = {"seconds": 1.0, "metrics": {"single": {"sigmas": [0.1, 0.2], "mean": [1.0 + seed, 3.0]}}}
        (folder / "evaluation" / "flatness.json").write_text(json.dumps(flatness))
    return tmp_path


def a_table(*rows: Row, **columns: Column) -> Table:
    return Table("T", "Figure 0", [0, 1], columns=columns, rows=list(rows), figure="x")


def test_lines_are_of_the_history_or_of_a_suite(runs):
    table = a_table(row := Row("a"), epochs=EPOCHS, flat=FLATNESS)
    found = collect(table, row, runs, [0, 1], [0, 1], 3)
    assert found.lines["epochs"] == {0: {1: 10.0, 3: 30.0}, 1: {1: 10.0, 3: pytest.approx(130.0)}}
    assert found.lines["flat"] == {0: {0.1: 1.0, 0.2: 3.0}, 1: {0.1: 2.0, 0.2: 3.0}}
    assert found.values == {"epochs": {0: 30.0, 1: pytest.approx(130.0)}, "flat": {0: 2.0, 1: 2.5}}, "the last, and the mean"
    assert found.evaluated_by == {"unknown"}
    two = a_table(row, epochs=replace(EPOCHS, over=[1, 3]))
    assert collect(two, row, runs, [0, 1], [0, 1], 3).values == {"epochs": {0: 20.0, 1: 70.0}}, "the mean of both"
    first = a_table(row, epochs=replace(EPOCHS, over=[1, 2]))
    assert collect(first, row, runs, [0, 1], [0, 1], 3).values == {"epochs": {0: 10.0, 1: 10.0}}, "until epoch 2"
    later = collect(a_table(row, epochs=replace(EPOCHS, over=[181, 200])), row, runs, [0, 1], [0, 1], 3)
    assert later.values == {"epochs": {}} and later.impossible == {"epochs": "there are none from 181 to 200"}
    other = collect(two, replace(row, predictor="ensemble"), runs, [0, 1], [0, 1], 3)
    assert other.values["epochs"] == {} and other.impossible["epochs"] == "the history is that of the single model"
    for cut in ("epoch,test_accuracy\n1,\n", "epoch,test_accuracy\n1,0.1\n2,0.2\n"):
        (runs / "seed=1" / "history.csv").write_text(cut)
        found = collect(table, row, runs, [0, 1], [0, 1], 3)
        assert "has no test_accuracy of epoch 3: move the run away" in found.failed["seed 1"]
        assert list(found.values["epochs"]) == [0]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    made: list[Figure] = []

    def figure(**options: object) -> Figure:
        made.append(Figure(**options))
        return made[-1]

    monkeypatch.setattr(figures, "Figure", figure)
    return made


def test_rows_with_an_x_make_one_line(drawn, tmp_path):
    columns = {"accuracy": Column("test accuracy (%)", "test_accuracy"), "ood": Column("AUROC", "auroc", "ood")}
    table = a_table(Row("b", x=2), Row("a", x=1), Row("none", x=3), Row("no x"), **columns)
    values = {"b": {0: 4.0, 1: 6.0}, "a": {0: 1.0}, "none": {}, "no x": {0: 9.0}}
    results = {name: Numbers({"accuracy": own, "ood": {}}, [], 2, 2) for name, own in values.items()}
    files = figures.draw(table, results, tmp_path / "f" / "figure")
    assert [file.name for file in files] == ["figure.svg", "figure.png"] and all(file.stat().st_size > 1000 for file in files)
    (axes,) = drawn[0].axes  # of the column that has numbers
    (line,) = axes.lines
    assert line.get_xydata().tolist() == [[1, 1], [2, 5]] and line.get_label() == "n = 1 to 2"
    spread = axes.collections[0].get_paths()[0].vertices
    assert spread[:, 1].max() == pytest.approx(5 + 2**0.5), "sample standard deviation of 4 and 6"
    again = figures.draw(table, results, tmp_path / "g" / "figure")
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]
    nothing = {name: Numbers({"accuracy": {}, "ood": {}}, [], 2, 2) for name in values}
    assert figures.draw(table, nothing, tmp_path / "f" / "figure") == [] and not any(file.exists() for file in files)


def test_rows_of_one_name_of_a_line_make_one_line_each(drawn, tmp_path):
    rows = [Row("a", x=0, line="small"), Row("b", x=0, line="large"), Row("c", x=1, line="small"), Row("d", x=1, line="large")]
    table = a_table(*rows, rmse=Column("RMSE", "test_rmse"))
    results = {row.name: Numbers({"rmse": {0: float(number)}}, [], 1, 1) for number, row in enumerate(rows)}
    figures.draw(table, results, tmp_path / "figure")
    lines = {line.get_label(): line.get_xydata().tolist() for line in drawn[0].axes[0].lines}
    assert lines == {"small (n = 1)": [[0, 0], [1, 2]], "large (n = 1)": [[0, 1], [1, 3]]}


def test_a_row_whose_numbers_are_lines_is_one(drawn, runs):
    table = a_table(row := Row("a"), flat=FLATNESS)
    figures.draw(table, {"a": collect(table, row, runs, [0, 1], [0, 1], 3)}, runs / "figure")
    (axes,) = drawn[0].axes
    assert axes.lines[0].get_xydata().tolist() == [[0.1, 1.5], [0.2, 3.0]]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.lines[0].get_label()) == ("x", "δL (nats)", "a (n = 2)")
