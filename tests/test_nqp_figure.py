"""Measured points, Figure 1 and its committed numbers, and ``scripts/nqp.py``."""

from __future__ import annotations

import contextlib
import io
import json
import math
import runpy
import sys

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from late_phase.nqp.config import NqpConfig
from late_phase.nqp.figure import STYLES
from late_phase.nqp.settings import Settings
from late_phase.training.command_line import as_dataclass

COMMITTED = json.loads((ROOT / "results" / "nqp" / "figure1.json").read_text())
SMALL = {"n": 10, "target_norm": math.sqrt(10)}  # the stated regime in ten dimensions: still in balance


def test_the_defaults_of_the_code_are_those_of_the_config():
    ConfigStore.instance().store(group="schema", name="nqp", node=NqpConfig)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = as_dataclass(compose("nqp", ["output=x"]))
    assert Settings(**{key: getattr(config, key) for key in Settings.__dataclass_fields__}) == Settings()
    ours = COMMITTED["settings"]
    assert {key: ours[key] for key in Settings.__dataclass_fields__} == {
        key: getattr(config, key) for key in Settings.__dataclass_fields__
    }


def test_the_committed_numbers_say_what_the_issue_asks():
    assert abs(COMMITTED["slope"] + 1) < 0.05
    assert [m["settings"]["K"] for m in COMMITTED["stated"]["late_phase"]][:: len(COMMITTED["settings"]["figure1"]["K"]) - 1] == [
        1,
        50,
    ]
    for row in COMMITTED["late_phase_over_parameterised"]:
        assert abs(row["ratio"] - 1) < 0.1, row
    for m in COMMITTED["stated"]["full"]:
        assert abs(m["loss"]["mean"] - m["theory"]) < 3 * m["loss"]["standard_error"], m["settings"]["K"]
    assert COMMITTED["command"] == "python scripts/nqp.py task=figure1" and COMMITTED["cpu_seconds"] < 2 * 300  # two cores


@pytest.fixture
def nqp(tmp_path, monkeypatch):
    """Runs ``scripts/nqp.py`` as ``__main__`` in an empty folder; returns its exit status or message, and its output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # the script sets it: to be taken back

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["scripts/nqp.py", *arguments])
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                runpy.run_path(str(ROOT / "scripts" / "nqp.py"), run_name="__main__")
            except SystemExit as end:
                return end.code, output.getvalue()
        return 0, output.getvalue()

    return run


def test_a_sweep_prints_a_line_and_writes_a_file_for_each_job(nqp, tmp_path):
    status, output = nqp("-m", "K=1,2", "eta=0.1", "n=4", "target_norm=2.0")
    assert status == 0 and [line.split()[1] for line in output.splitlines()] == ["K=1", "K=2"]
    record = json.loads((tmp_path / "outputs" / "nqp" / "K=2,eta=0.1,n=4,target_norm=2.0.json").read_text())
    assert record["settings"]["K"] == 2 and record["loss"]["runs"] == 8 and record["seconds"] >= 0
    assert record["command"] == "python scripts/nqp.py -m K=1,2 eta=0.1 n=4 target_norm=2.0"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["K=0"], "error: K=0 is too small: choose an integer of at least 1."),
        (["task=dance"], "error: task=dance is unknown: choose one of measure, figure1, speed."),
        (["Kay=3"], "error: Kay is not a key of the config"),
        (["task=figure1", "figure1.K=[2,3]"], "error: figure1.K=[2, 3] is no curve"),
        (["task=figure1", "figure1.K_ensembles=[1,4]"], "error: figure1.K_ensembles=[1, 4] has values that figure1.K"),
        (["task=figure1", "figure1.workers=0"], "error: figure1.workers=0 measures nothing"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(nqp, arguments, sentence):
    status, output = nqp(*arguments)
    assert str(status).startswith(sentence) and "Error executing" not in output


def test_figure1_is_drawn_and_its_numbers_written(nqp, tmp_path):
    small = ["n=4", "target_norm=2.0", "eta=0.1", "figure1.K=[1,2,4]", "figure1.K_ensembles=[1,4]", "figure1.workers=1"]
    status, output = nqp("task=figure1", *small, "figure1.others=[{eta: 0.2, B: 2, target_norm: 1.0}]")
    assert status == 0 and len(output.splitlines()) == 3 + 2 + 2 + 3 + 1
    record = json.loads((tmp_path / "results" / "nqp" / "figure1.json").read_text())
    assert list(record["stated"]) == list(STYLES) and [row["K"] for row in record["late_phase_over_full"]] == [1, 4]
    late, full = record["stated"]["late_phase"][2]["loss"]["mean"], record["stated"]["full"][1]["loss"]["mean"]
    assert record["late_phase_over_full"][1]["ratio"] == pytest.approx(late / full)
    assert record["slope"] == pytest.approx(-1, abs=0.2) and 0 < record["slope_standard_error"] < 0.1
    assert [m["settings"]["K"] for m in record["others"][0]] == [1, 2, 4] and record["others"][0][0]["settings"]["B"] == 2
    for suffix in ("svg", "png"):
        assert (tmp_path / "results" / "figures" / f"figure1.{suffix}").stat().st_size > 10_000
