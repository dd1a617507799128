"""Measured points, Figure 1 and its committed numbers, and ``scripts/nqp.py``."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from late_phase.command_line.hydra_jobs import as_dataclass
from late_phase.nqp import figure
from late_phase.nqp.config import NqpConfig
from late_phase.nqp.figure import STYLES, Figure1Settings, measure_figure1, plan_figure1
from late_phase.nqp.settings import Settings
from late_phase.support import memory
from late_phase.support.errors import UserError

SMALL = ["figure1.K=[1,2]", "figure1.K_ensembles=[1,2]", "figure1.others=[]"]
COMMITTED = json.loads((ROOT / "results" / "nqp" / "figure1.json").read_text())


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


OTHER = "figure1.others=[{eta: 0.1, B: 5, target_norm: 2.0}, "


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["K=0"], "error: K=0 is out of range: choose an integer from 1 to below 2^63."),
        (["seeds=[-1]"], "error: seeds=[-1] has -1, which is out of range: choose from 0 to below 2^63."),
        (["task=dance"], "error: task=dance is unknown: choose one of measure, figure1, speed."),
        (["Kay=3"], "error: Kay is not a key of the config"),
        (["task=figure1", "figure1.K=[2,3]"], "error: figure1.K=[2, 3] is not a curve"),
        (["task=figure1", "figure1.K=[]"], "error: figure1.K=[] is not a curve"),
        (["task=figure1", "figure1.K=[1,2,2]"], "error: figure1.K=[1, 2, 2] is not a curve: choose K = 1 and at least one more K"),
        (["task=figure1", "d=2"], "error: d=2 is not for figure1, whose φ is a scalar: choose d=1"),
        (["task=figure1", "figure1.K_ensembles=[0]"], "error: figure1.K_ensembles=[0] is not a curve"),
        (["task=figure1", "figure1.K_ensembles=[1,4]"], "error: figure1.K_ensembles=[1, 4] has values that figure1.K"),
        (["task=figure1", "figure1.K=[1,0]", "figure1.K_ensembles=[1,0]"], "error: figure1.K=[1, 0]: K=0 is out of range"),
        (["task=figure1", "figure1.workers=0"], "error: figure1.workers=0 is out of range: choose from 1 to 1024 processes."),
        (["task=figure1", "figure1.workers=10000"], "error: figure1.workers=10000 is out of range"),
        (["task=figure1", "figure1.others=[{eta: 0.1}]"], "error: figure1.others[0].B is not set"),
        (["task=figure1", OTHER + "{eta: 0.1, B: 5, target_norm: 2.0, C: 1}]"], "error: C is not a key of the config"),
        (["task=figure1", OTHER + "{eta: nan, B: 5, target_norm: 2.0}]"], "error: figure1.others[1]: eta=nan is out of range"),
        (["task=figure1", OTHER + "{eta: 5, B: 5, target_norm: 2.0}]"], "error: figure1.others[1]: eta=5 is unstable"),
        (["task=figure1", OTHER + "{eta: 1e-20, B: 5, target_norm: 2.0}]"], "error: figure1.others[1]: model=late_phase with K=1"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(nqp, tmp_path, arguments, sentence):
    status, output = nqp("n=4", "target_norm=2.0", "eta=0.1", *arguments)
    assert str(status).startswith(sentence) and not output and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argument", "place", "reason"),
    [
        ("output=.", ".", "Is a directory"),
        ("output=folder", "folder", "Is a directory"),
        ("output=file/x.json", "file/x.json", "File exists|Not a directory"),
        ("output=file/a/x.json", "file/a/x.json", "Not a directory"),
        ("output=closed/x.json", "closed/x.json", "Permission denied"),
        ("output=/proc/none/x.json", "/proc/none/x.json", "No such file or directory"),
        (f"output={'x' * 300}", "x{300}", "File name too long"),
        ("figure1.folder=file", "file/nqp/figure1.json", "Not a directory"),
        ("figure1.folder=closed", "closed/nqp/figure1.json", "Permission denied"),
        ("figure1.folder=taken", "taken/figures/figure1.svg", "Is a directory"),
    ],
)
def test_a_place_that_can_not_be_written_is_refused_before_the_work(nqp, tmp_path, monkeypatch, argument, place, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "closed").mkdir(mode=0o500)
    (tmp_path / "taken" / "figures" / "figure1.svg").mkdir(parents=True)
    if "closed" in argument and os.access(tmp_path / "closed", os.W_OK):
        pytest.skip("root may write anywhere")
    if place.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("needs Linux")
    monkeypatch.setattr("late_phase.nqp.measure.simulate", lambda *arguments: pytest.fail("simulated"))
    before = sorted(tmp_path.rglob("*"))
    status, output = nqp(
        "n=4", "target_norm=2.0", "eta=0.1", *SMALL, *(["task=figure1"] if "figure1" in argument else []), argument
    )
    key, _, value = argument.replace("'", "").partition("=")
    sentence = rf"error: {key}={value} can't be used, because {place} can't be written \(({reason})\): choose another place\."
    assert re.fullmatch(sentence, str(status)) and not output, status
    assert sorted(tmp_path.rglob("*")) == before or (place.endswith("svg") and not list(tmp_path.rglob("*.json")))


def test_an_empty_place_is_refused_before_the_work(nqp):
    for argument in ("output=''", "figure1.folder=''"):
        assert str(nqp("n=4", argument)[0]).startswith(f"error: {argument.partition('=')[0]} is empty: give a path")


def test_the_speed_is_not_measured_where_it_can_not_be_written(nqp):
    assert str(nqp("task=speed", "output=.")[0]).startswith("error: output=. can't be used, because . can't be written")


def test_a_long_measurement_says_so(nqp, monkeypatch):
    """On standard error, before it begins."""

    def stop(planned):
        raise UserError("stopped: choose to.")

    monkeypatch.setattr("late_phase.nqp.measure.measure", stop)
    for eta, sentence in ((1e-7, r"[\d,]{11} steps will take about \d+ (hours|minutes)\n"), (1e-2, "")):
        status, output = nqp("n=4", "target_norm=2.0", f"eta={eta}")
        assert status == "error: stopped: choose to." and re.fullmatch(sentence, output), output


def test_a_long_closed_form_says_so_before_it_is_computed(nqp, monkeypatch):
    def stop(settings):
        raise UserError("stopped: choose to.")

    monkeypatch.setattr("late_phase.nqp.measure.plan", stop)
    monkeypatch.setattr(figure, "plan", stop)
    assert nqp("n=2000") == ("error: stopped: choose to.", "the closed form will take about 22 minutes\n")
    status, output = nqp("n=300", "task=figure1")
    assert status.endswith(": stopped: choose to.") and output == "the closed form will take about 4 minutes\n"
    assert nqp("n=300")[1] == ""


def test_workers_are_not_more_than_there_is_memory_for(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 2**30)
    base = Settings(n=4, target_norm=2.0, eta=0.1)
    assert len(plan_figure1(base, Figure1Settings([1, 2], [1, 2], workers=2))) == 6
    with pytest.raises(UserError, match=r"figure1\.workers=5 needs about 1\.7 GiB of memory, and .*: choose fewer\."):
        plan_figure1(base, Figure1Settings([1, 2], [1, 2], workers=5))


def test_more_workers_than_measurements_are_as_many(monkeypatch):
    started = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers, context):
            started.append(workers)
            super().__init__(workers)

    monkeypatch.setattr(figure, "ProcessPoolExecutor", Pool)
    settings = Figure1Settings([1, 2], [1, 2], workers=1000)
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    plans = plan_figure1(Settings(n=2, target_norm=2**0.5, eta=0.2), settings)
    *measured, whole = measure_figure1(plans, settings)
    assert started == [6] == [len(measured)] and not whole.others
    assert [m.settings.K for m in whole.stated["full"]] == [1, 2]


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
