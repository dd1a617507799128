"""The end of a sweep: its table against the runs' own metrics, what is missing, the picture; and the sweep of W&B's agents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import yaml
from conftest import ROOT
from PIL import Image

from late_phase.command_line.commands import training
from late_phase.command_line.plan import Job, Plan
from late_phase.reporting.runs import Run
from late_phase.reporting.sweeps import Point, figure, page
from late_phase.support.errors import UserError
from late_phase.training import loop

SMOKE = ["+debug=smoke", "runtime.progress=false", "runtime.threads=1"]
SWEEP = ["-m", "+experiment=digits_lenet_lpbn", *SMOKE]
ROW = "debug=smoke"
"""The variant of a smoke run."""
METRICS = [(predictor, metric) for predictor in ("single", "ensemble") for metric in ("test_accuracy", "test_nll")]
"""In the order of the table."""


def rows(text: str) -> list[list[str]]:
    """The cells of a Markdown table in a text, without the line below its titles."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|-")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def summary(output: str) -> str:
    """What is printed of the summary, from its table on."""
    return output[output.index("\n| ") + 1 :] if "\n| " in output else ""


def cell(folder: Path, seeds: list[int], predictor: str, metric: str) -> str:
    """Mean and sample standard deviation by hand, in % with two digits or in nats with four."""
    records = [json.loads((folder / f"seed={seed}" / "metrics.json").read_text())["metrics"] for seed in seeds]
    factor, digits = (100, 2) if metric == "test_accuracy" else (1, 4)
    values = np.array([factor * record[predictor][metric] for record in records])
    return f"{values.mean():.{digits}f}" + (f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else "")


def test_the_table_has_what_the_runs_have_and_says_what_is_missing(main, tmp_path, monkeypatch):
    run = loop.run

    def some(config, directory):
        job = (config.late_phase.sigma0, config.late_phase.K, config.seed)
        if job in ((0.5, 2, 1), (0.5, 3, 0)):
            raise UserError("this one fails.")
        if job != (0.5, 3, 1):  # whose files somebody has removed
            run(config, directory)

    monkeypatch.setattr(loop, "run", some)
    status, output = main(*SWEEP, "late_phase.sigma0=0,0.5", "late_phase.K=2,3", "late_phase.T0=choice(1)", "seed=range(2)")
    assert status == "error: this one fails."
    folder = tmp_path / "outputs" / "digits_lenet_lpbn"
    (path,) = folder.glob("sweep-*.md")
    assert path.name.startswith(f"sweep-{ROW},sigma0=0,0.5,K=2,3,T0=choice-1--")  # in the order of the command
    command, _, text = path.read_text().partition("\n\n")
    assert command.startswith("`train.py -m +experiment=digits_lenet_lpbn +debug=smoke ") and command.endswith("'seed=range(2)'`")
    assert summary(output) == f"{text}in {path.relative_to(tmp_path)} and .png\n"

    titles, *found = rows(text)
    said = ["single: accuracy (%)", "single: NLL (nats)", "ensemble: accuracy (%)", "ensemble: NLL (nats)"]
    assert titles == ["sigma0", "K", *said, "n"]
    expected = []
    for sigma0, K, seeds, n in (("0", "2", [0, 1], "2"), ("0", "3", [0, 1], "2"), ("0.5", "2", [0], "1 of 2")):
        own = folder / f"{ROW},sigma0={sigma0},K={K},T0=1"
        expected.append([sigma0, K, *(cell(own, seeds, *metric) for metric in METRICS), n])
    assert found == [*expected, ["0.5", "3", *["missing"] * 4, "0 of 2"]]
    assert text.partition("over n seeds.\n")[2].splitlines() == [
        "sigma0=0.5, K=2: seed 1 failed: this one fails",
        "sigma0=0.5, K=3: seed 0 failed: this one fails; seed 1 missing",
    ]
    with Image.open(path.with_suffix(".png")) as picture:
        assert picture.width > 500


def test_a_sweep_over_seeds_writes_nothing_and_counts_no_run_with_another_config(main, tmp_path):
    sweep = [*SWEEP, "hydra.sweep.dir=mine", "seed=0,1"]
    status, output = main(*sweep)
    titles, row = rows(summary(output))
    folder = tmp_path / "mine" / "digits_lenet_lpbn" / ROW
    assert status == 0 and titles[0] == "single: accuracy (%)" and "in mine/" not in summary(output)
    assert row[0] == cell(folder, [0, 1], "single", "test_accuracy") and row[-1] == "2"
    assert not [path for path in tmp_path.rglob("sweep-*")]
    config = folder / "seed=1" / "config.yaml"
    config.write_text(config.read_text().replace("sigma0: 0.0", "sigma0: 0.7"))
    status, output = main(*sweep)
    assert "holds a run with another config" in str(status)
    assert rows(output)[1] == [*(cell(folder, [0], *m) for m in METRICS), "1 of 2"] and output.endswith("seed 1 stale\n")


def test_nothing_is_said_of_single_runs_and_where_there_are_none(main, tmp_path):
    quiet = [*SWEEP, "~hydra.callbacks.summary", "late_phase.K=2,3"]
    for arguments in (SWEEP, SWEEP[1:], quiet, [*SWEEP, "late_phase.T0=300,400"], [*SWEEP, "late_phase.T00=3,4"]):
        status, output = main(*arguments)
        assert "On the test set" not in output and (status == 0) == ("late_phase.T0" not in arguments[-1])
    assert not [path for path in tmp_path.rglob("sweep-*")]


def test_nothing_is_said_of_the_sweeps_of_a_table(tmp_path):
    jobs = {Job(("+experiment=digits_lenet_base",), seed, tmp_path, "", 1): "missing" for seed in (0, 1)}
    (command,) = training(Plan(jobs), "joblib", tmp_path)
    assert "~hydra.callbacks.summary" in command


@pytest.mark.parametrize(
    ("subdir", "directories"),
    [("${hydra:job.num}", ["0", "1", "2", "3"]), ("x/${late_phase.K}/${seed}", ["x/2/0", "x/2/1", "x/3/0", "x/3/1"])],
)
def test_directories_are_those_that_the_user_has_set(main, tmp_path, subdir, directories):
    where = ["hydra.sweep.dir=mine/${now:%f}", f"hydra.sweep.subdir={subdir}"]  # microseconds, of one moment for all jobs
    status, output = main(*SWEEP, *where, "late_phase.K=2,3", "seed=0,1")
    assert status == 0
    (top,) = (tmp_path / "mine").iterdir()
    values = [json.loads((top / d / "metrics.json").read_text())["metrics"]["single"]["test_accuracy"] for d in directories]
    means = [f"{100 * np.mean(values[i : i + 2]):.2f} ± " for i in (0, 2)]
    for row, mean in zip(rows(output)[1:], means, strict=True):
        assert row[1].startswith(mean) and row[-1] == "2"
    (path,) = top.rglob("sweep-*.md")
    assert path == top / ("" if directories[0] == "0" else "x") / f"sweep-{ROW},K=2,3.md"


@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.slow)])
def test_a_sweep_over_experiments(main, tmp_path, launcher):
    """By this process, or by jobs in other processes."""
    sweep = ["-m", "+experiment=digits_lenet_base,digits_lenet_lpbn_swa", *SMOKE, "seed=0,1"]
    if launcher == "basic":
        status, output = main(*sweep)
        assert status == 0
    else:
        command = [sys.executable, str(ROOT / "train.py"), *sweep, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        output = done.stdout
    titles, base, swa = rows(summary(output))
    predictors = ["single", "ensemble", "swa", "swa_ensemble"]
    assert titles == ["experiment", *(f"{p}: {m}" for p in predictors for m in ("accuracy (%)", "NLL (nats)")), "n"]
    metrics = [(predictor, metric) for predictor in predictors for metric in ("test_accuracy", "test_nll")]
    outputs = tmp_path / "outputs"
    expected = [cell(outputs / "digits_lenet_base" / ROW, [0, 1], "single", metric) for metric in ("test_accuracy", "test_nll")]
    assert base == ["digits_lenet_base", *expected, *[""] * 6, "2"]
    expected = [cell(outputs / "digits_lenet_lpbn_swa" / ROW, [0, 1], *metric) for metric in metrics]
    assert swa == ["digits_lenet_lpbn_swa", *expected, "2"]
    assert [path.name for path in outputs.glob("sweep-*")] == [
        f"sweep-experiments=digits_lenet_base,digits_lenet_lpbn_swa,{ROW}.md"
    ]  # nothing numeric: no picture


def point(values: dict[str, str], metrics: list[dict[str, float]]) -> Point:
    """A point whose runs have these metrics of the single model."""
    return Point(
        values, [Run(Path(), {"metrics": {"single": own}}, [], None) for own in metrics], {} if metrics else {0: "missing"}
    )


def test_the_picture_has_a_line_for_each_combination():
    points = [
        point({"T0": T0, "K": K, "averaging": "none"}, [{"test_accuracy": a} for a in (0.5 + i / 10, 0.7 + i / 10)])
        for K in ("2", "5", "10")
        for i, T0 in enumerate(("20", "null", "3.5"))
    ]
    (axes,) = figure(points).axes
    assert len(axes.containers) == 3
    assert [bars.get_label() for bars in axes.containers] == [f"K={K}, averaging=none" for K in (2, 5, 10)]
    line, _, (bars,) = axes.containers[0]
    assert np.allclose(line.get_xydata(), [[3.5, 80], [20, 60]])
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    assert np.allclose(ends, [[80 - 200**0.5, 80 + 200**0.5], [60 - 200**0.5, 60 + 200**0.5]])
    assert axes.get_xlabel() == "T0 (without null)" and axes.get_xscale() == "linear" and "accuracy" in axes.get_ylabel()
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["3.5", "20"]


def test_the_picture_of_texts_and_of_rates():
    values = {"1e-4": 2.5, "0.001": 2.0, "1e-2": 1.8}
    points = [point({"optimizer": "adam", "optimizer.lr": lr}, [{"test_bpc": bpc}]) for lr, bpc in values.items()]
    (axes,) = figure([*points, point({"optimizer": "adam", "optimizer.lr": "1"}, [])]).axes
    (bars,) = axes.containers
    assert np.allclose(bars[0].get_xydata(), [[0.0001, 2.5], [0.001, 2.0], [0.01, 1.8]])
    assert axes.get_xscale() == "log" and "bits per character" in axes.get_ylabel()
    assert rows(page(points))[0] == ["optimizer", "optimizer.lr", "single: BPC", "n"]


def test_there_is_no_picture_of_words_or_without_a_single_model():
    metrics = [{"test_accuracy": 0.5}]
    assert figure([point({"T0": "10"}, []), point({"T0": "20"}, []), point({"T0": "null"}, metrics)]) is None
    assert figure([point({"averaging": name, "x": "1"}, metrics) for name in ("none", "swa", "nan")]) is None
    assert figure([Point({"K": K}, [Run(Path(), {"metrics": {"ensemble": metrics[0]}}, [], None)], {}) for K in "23"]) is None


@pytest.mark.slow
def test_the_agent_of_wandb_runs_a_point_of_its_grid(tmp_path, monkeypatch):
    """By the agent's own code, but for the server, which hands it the point; and offline."""
    agent = pytest.importorskip("wandb.wandb_agent")
    sweep = yaml.safe_load((ROOT / "configs" / "sweep" / "t0_k_sigma0.yaml").read_text(encoding="utf-8"))
    point = {key: {"value": entry["values"][-1]} for key, entry in sweep["parameters"].items()}
    started = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(agent, "AgentProcess", lambda command, env, **_: started.append((command, env)) or SimpleNamespace())
    with patch.dict(os.environ):  # the agent changes it
        one = agent.Agent(None, None)
        one._sweep_command = sweep["command"]
        one._command_run({"run_id": "point", "program": sweep["program"], "args": point})
    ((command, env),) = started
    overrides = [f"{key}={entry['value']}" for key, entry in point.items()]
    fixed = ["+experiment=digits_lenet_lpbn", "logger=wandb", "logger.mode=online"]
    assert command == ["/usr/bin/env", "python", "train.py", *fixed, *overrides]

    for name in ("train.py", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    offline = ["logger.mode=offline" if part == "logger.mode=online" else part for part in command]
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    small = ["+debug=smoke", "late_phase.T0=1", "runtime.progress=false"]
    done = subprocess.run([*offline, *small], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (metrics,) = tmp_path.glob("outputs/**/metrics.json")
    name, value = sweep["metric"]["name"].split("/")
    assert value in json.loads(metrics.read_text())["metrics"][name]
    assert "T0=20,K=5,sigma0=0.5,debug=smoke" in str(metrics) and metrics.parent.name == "seed=2"
    (log,) = metrics.parent.glob("wandb/offline-run-*/run-point.wandb")
    end = time.monotonic() + 10
    while sweep["metric"]["name"].encode() not in log.read_bytes() and time.monotonic() < end:
        time.sleep(0.01)  # wandb's own process writes it, shortly after the run
    assert sweep["metric"]["name"].encode() in log.read_bytes()
