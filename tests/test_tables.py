"""Tables: what the paper printed, what is planned, and what is made of runs."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from filelock import FileLock
from paper import NUMBERS, TABLES

from late_phase.command_line.commands import evaluation, launched_by, training
from late_phase.command_line.plan import collected, refuse_stale, summary
from late_phase.command_line.planner import Planner
from late_phase.reporting.numbers import read_result
from late_phase.reporting.table_config import read_table
from late_phase.reporting.table_files import write
from late_phase.reporting.tables import as_csv, as_latex, as_markdown, provenance, say
from late_phase.support.errors import UserError

pytestmark = pytest.mark.timeout(400)  # a table trains, by several processes

CONFIGS = ROOT / "configs"
SMOKE = ["+debug=smoke", "runtime.threads=1"]
OWN = """
title: A table of mine
place: Mine
seeds: [0, 1]
columns:
  accuracy: {title: "test accuracy (%)", metric: test_accuracy, factor: 100}
  nll: {title: "NLL (nats)", metric: test_nll, digits: 3, more_is_better: false}
rows:
  - {name: Base, experiment: cifar10_lenet_base, paper: {accuracy: [77.41, 0.23]}}
  - {name: Late, experiment: cifar10_lenet_lpbn, overrides: [late_phase.K=2], against: Base, paper: {accuracy: [77.94, 0.37]}}
  - {name: Wide, experiment: cifar10_wrn14_base, needs: WRN 28-14}
  - {name: Deep ensemble, experiment: cifar10_lenet_base, together: true}
"""


@pytest.mark.parametrize("name", TABLES)
def test_the_papers_numbers_are_those_of_a_second_transcription(name):
    assert len(TABLES[name]) == NUMBERS[name]
    table = read_table(CONFIGS / "table" / f"{name}.yaml")
    ours = [tuple(row.paper[key]) for row in table.rows for key in table.columns if key in row.paper]
    theirs = [(mean,) if spread is None else (mean, spread) for _, _, mean, spread in TABLES[name]]
    assert ours == theirs


@pytest.fixture(scope="module")
def planner(tmp_path_factory: pytest.TempPathFactory) -> Planner:
    """One for all tables, because it composes each experiment once."""
    return Planner(CONFIGS, tmp_path_factory.mktemp("planned"), seeds=[0])


@pytest.mark.parametrize("path", sorted((CONFIGS / "table").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_row_of_every_table_is_a_run(path, planner, tmp_path):
    table = read_table(path)
    if table.files:
        places = {"text": "dataset=text_file", "tables": "dataset=table_file"}
        own = {kind: [places[kind], "dataset.path=FILE"] for kind in table.files}
        planner = Planner(CONFIGS, tmp_path, own_data=own, seeds=[0])
    planned = planner.plan([table])[0]
    assert len({job.directory for job in planned.jobs}) == len(planned.jobs)
    assert set(planned.without) == {row.name for row in table.rows if not row.experiment}
    assert set(planned.jobs.values()) <= {"missing"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A table that there was not, and the outputs of its runs: by a call that is killed, and then by two at once."""
    folder = tmp_path_factory.mktemp("made")
    for name in ("scripts", "configs"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "train.py", folder)
    (folder / "configs" / "table" / "mine.yaml").write_text(OWN)
    command = ["scripts/table.py", "mine", "--scale", "digits", "--seeds", "0", "1", "--to", "made", "--with", *SMOKE]
    options = {"cwd": folder, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    killed = subprocess.Popen([sys.executable, *command], **options, start_new_session=True)
    while not (finished := list(folder.glob("outputs/*/*/*/metrics.json"))):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.05)
    subprocess.run(["pkill", "-KILL", "-s", str(killed.pid)], check=True)  # its training, in a group of its own, too
    killed.communicate()

    both = [subprocess.Popen([sys.executable, *command], **options) for _ in range(2)]
    told = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    text = told[0][0] + told[1][0]
    trained = text.count(f"in {folder}/outputs/") - text.count("is finished already")
    assert trained == 4 - len(finished), text
    return folder, folder / "outputs"


def planned_again(made: tuple[Path, Path], seeds=(0, 1), **options) -> tuple:
    folder, outputs = made
    table = read_table(folder / "configs" / "table" / "mine.yaml")
    return table, Planner(folder / "configs", outputs, "digits", SMOKE, seeds=seeds, **options).plan([table])[0]


def test_a_table_is_made_of_its_config_alone(made):
    folder, outputs = made
    page = (folder / "made" / "tables" / "digits" / "mine.md").read_text(encoding="utf-8")
    base = [json.loads(path.read_text()) for path in sorted(outputs.glob("cifar10_lenet_base/*/seed=?/metrics.json"))]
    mean = 100 * sum(record["metrics"]["single"]["test_accuracy"] for record in base) / 2
    row = next(line for line in page.splitlines() if line.startswith("| Base"))
    assert "77.41 ± 0.23" in row and f" {mean:.2f} ± " in row and row.rstrip().endswith("| 2 |")
    assert "* Late against Base, test accuracy (%): " in page and "paired by seed" in page
    assert "The paper: +0.53, which 7 seeds would show" in page
    assert "* Wide has no runs: it needs WRN 28-14, which +scale=digits replaces." in page
    assert "* Deep ensemble: ours combines 2 runs." in page
    assert "Our runs use `+scale=digits +debug=smoke`: only the signs of differences compare" in page

    rows = list(csv.DictReader((folder / "made/tables/digits/mine.csv").read_text(encoding="utf-8").splitlines()))
    values = {(row["row"], row["column"]): row for row in rows}
    assert float(values["Base", "accuracy"]["mean"]) == pytest.approx(mean)
    assert (
        values["Wide", "accuracy"]["n"] == "0" and values["Base", "nll"]["n"] == "2" and values["Deep ensemble", "nll"]["n"] == "1"
    )
    latex = (folder / "made" / "tables" / "digits" / "mine.tex").read_text(encoding="utf-8")
    assert latex.startswith("\\begin{tabular}{l") and "77.41 $\\pm$ 0.23" in latex and "(\\%)" in latex


def test_what_is_done_is_not_done_again(made):
    table, planned = planned_again(made)
    assert set(planned.jobs.values()) == {"done"}
    assert training(planned, [], made[1]) == evaluation(table, planned, []) == []
    assert re.fullmatch(r"4 runs: 4 done\n  Wide: no runs, because it needs WRN 28-14, .*", summary(planned))


def test_a_run_that_is_deleted_is_the_only_one_that_is_missing(made, tmp_path):
    folder, outputs = made[0], Path(shutil.copytree(made[1], tmp_path / "outputs"))
    (run,) = outputs.glob("cifar10_lenet_lpbn/*/seed=1")
    shutil.rmtree(run)
    table, planned = planned_again((folder, outputs))
    assert [job for job, state in planned.jobs.items() if state != "done"] == [planned.rows["Late"][1]]
    (command,) = training(planned, launched_by("joblib", ["hydra.launcher.n_jobs=1"]), outputs)
    assert command[:3] == ["train.py", "-m", f"hydra.sweep.dir={outputs}"] and command[-1] == "seed=1"
    assert {"hydra/launcher=joblib", "runtime.threads=1", "hydra.launcher.n_jobs=1", "runtime.progress=false"} <= set(command)
    assert "Late: +experiment=cifar10_lenet_lpbn" in summary(planned) and "seed 1 missing, about" in summary(planned)
    results = collected(table, planned)
    assert "(n = 1 of 2)" in as_markdown(say(table, results)) and "paired" not in as_markdown(say(table, results))


@pytest.mark.slow
def test_runs_can_be_jobs_of_submitit(made, tmp_path):
    """Of its local executor, which is SLURM's in all but the machine."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra slurm")
    folder, outputs = made[0], Path(shutil.copytree(made[1], tmp_path / "outputs"))
    (run,) = outputs.glob("cifar10_lenet_lpbn/*/seed=1")
    shutil.rmtree(run)
    command = ["scripts/table.py", "mine", "--scale", "digits", "--seeds", "0", "1", "--launcher", "slurm_local"]
    places = ["--outputs", str(outputs), "--to", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *command, *places, "--with", *SMOKE], cwd=folder, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    assert (run / "metrics.json").exists() and "n = 1 of 2" not in (tmp_path / "tables" / "digits" / "mine.md").read_text("utf-8")


def test_runs_of_another_config_are_no_part_of_a_table(made, tmp_path):
    folder, outputs = made[0], Path(shutil.copytree(made[1], tmp_path / "outputs"))
    for path in outputs.glob("cifar10_lenet_base/*/seed=0/config.yaml"):
        path.write_text(path.read_text().replace("momentum: 0.9", "momentum: 0.8"))
    table, planned = planned_again((folder, outputs))
    assert [job for job, state in planned.jobs.items() if state == "stale"] == [planned.rows["Base"][0]]
    with pytest.raises(UserError, match="seed=0 holds a run with another config than the table has now: move"):
        refuse_stale(planned)
    results = collected(table, planned)
    assert list(results["Base"].values["accuracy"]) == [1] and not results["Deep ensemble"].values["accuracy"]


def test_a_run_that_fails_is_told_and_the_others_go_on(made, tmp_path):
    folder = made[0]
    (folder / "configs" / "table" / "bad.yaml").write_text("\n".join(OWN.splitlines()[:-3]))  # its first row
    places = ["--outputs", str(tmp_path), "--to", str(tmp_path / "to")]
    how = ["--scale", "digits", "--seeds", "0", *places, "--with", *SMOKE, "optimizer.lr=1e30"]
    command = ["scripts/table.py", "bad", *how]
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: 1 of 1 runs are not finished")
    assert "lower optimizer.lr" in done.stderr
    page = (tmp_path / "to" / "tables" / "digits" / "bad.md").read_text(encoding="utf-8")
    assert "| failed" in page and re.search(r"\* Base, seed 0 failed: .*lower optimizer\.lr", page)
    table = read_table(folder / "configs" / "table" / "bad.yaml")
    planned = Planner(folder / "configs", tmp_path, "digits", [*SMOKE, "optimizer.lr=1e30"], seeds=[0]).plan([table])[0]
    assert set(planned.jobs.values()) == {"failed"} and len(training(planned, [], tmp_path)) == 1, "it is tried again"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("against: Base", "against: Bass"), "Late is compared with Bass, which is not a row"),
        (("name: Late", "name: Base"), "several rows have the name Base"),
        (("paper: {accuracy: [77.94, 0.37]}", "paper: {acc: [77.94]}"), "Late has the paper's number for acc, which is not"),
        (("[77.94, 0.37]", "[]"), r"the paper's numbers of Late must be \[mean\] or \[mean, spread\]"),
        (("title: A table", "titel: A table"), "titel"),
        (("against: Base", "against: Late"), "Late is compared with itself"),
        (("place: Mine", "place: Mine\nfigure: T0"), "a figure needs an x, and a row's x needs a figure"),
        (("overrides: [late_phase.K=2]", "x: 2"), "a figure needs an x, and a row's x needs a figure"),
        (
            (
                "place: Mine\nseeds: [0, 1]\ncolumns:\n  accuracy: {",
                "place: Mine\nfigure: x\nseeds: [0]\ncolumns:\n  accuracy: {x: epoch, ",
            ),
            "Deep ensemble is a deep ensemble, which has no epochs",
        ),
        (("place: Mine", "# place"), "it lacks place"),
        (("{name: Base, ", "{"), r"it lacks rows\[0\]\.name"),
    ],
)
def test_a_table_that_cannot_be_is_refused(tmp_path, change, message):
    path = tmp_path / "mine.yaml"
    path.write_text(OWN.replace(*change))
    with pytest.raises(UserError, match=f"mine.yaml is not a valid table .*{message}.*: compare it with"):
        read_table(path)


def test_a_table_with_an_introduction_has_a_page_of_its_own(made, tmp_path):
    table, planned = planned_again(made)
    table = replace(table, introduction="Read this *first*.\n", figure="x", rows=[replace(table.rows[0], x=1.0)])
    results = collected(table, planned, "")
    paths = write(table, results, "mine", tmp_path, "", [])
    page = paths[-1]
    assert page == tmp_path / "tables_mine.md" and paths[:-1] == write(
        replace(table, introduction=""), results, "mine", tmp_path, "", []
    )
    text, own = page.read_text(encoding="utf-8"), (tmp_path / "tables" / "mine.md").read_text(encoding="utf-8")
    heading, _, rest = own.partition("\n\n")
    assert text == f"{heading}\n\nRead this *first*.\n\n![A table of mine](figures/mine.png)\n\n{rest}"
    assert (tmp_path / "figures" / "mine.png").exists()
    write(table, results, "mine", tmp_path / "other", "digits", [])
    assert not (tmp_path / "other" / "tables_mine.md").exists()


def test_a_table_of_a_users_file_takes_its_place_and_nothing_else(tmp_path, main):
    table = read_table(CONFIGS / "table" / "tabular.yaml")
    planner = Planner(
        CONFIGS,
        tmp_path,
        own_data={"images": ["dataset=image_folder"], "tables": ["dataset=table_file", "dataset.path='my, own/diamonds.csv'"]},
        seeds=[0],
    )
    assert planner.changes(table) == []
    (job, *_) = planner.plan([table])[0].jobs
    assert job.overrides == ("+experiment=diamonds_mlp_base", "dataset=table_file", "dataset.path='my, own/diamonds.csv'")
    status, _ = main("tabular", "--dry", script="scripts/table.py")
    assert status == "error: tabular needs your own diamonds.csv: give --data diamonds.csv, or DATA=diamonds.csv for make."


def test_our_numbers_at_the_papers_scale_are_compared_with_the_papers(made, tmp_path):
    folder, outputs = made[0], Path(shutil.copytree(made[1], tmp_path / "outputs"))
    for seed in (0, 1):
        for path in outputs.glob(f"cifar10_lenet_*/*/seed={seed}/metrics.json"):
            record = json.loads(path.read_text())
            record["metrics"]["single"]["test_accuracy"] = (0.7741 if "base" in str(path) else 0.7) + seed / 10_000
            path.write_text(json.dumps(record))
    table, planned = planned_again((folder, outputs))
    page = as_markdown(say(table, collected(table, planned)))
    assert "* Late, test accuracy (%), differs from the paper: -7.9" in page and "Base, test accuracy (%), differs" not in page
    assert "* Late against Base, test accuracy (%): -7.41, paired by seed, n = 2: no test, as the spread over seeds is 0" in page
    nothing = replace(planned, jobs=dict.fromkeys(planned.jobs, "missing"))
    record = collected(table, planned)["Base"].records[0]
    for commit, told in (("0123456789abcdef", "0123456789ab"), ("0123456789abcdef-dirty", "0123456789ab-dirty"), (None, "unknown")):
        assert provenance([record | {"git_commit": commit}])[0].endswith(f"by commit {told}.")
    assert as_csv(table, collected(table, nothing)).count(",,,0,") == 8
    assert "missing" in as_latex(say(table, collected(table, nothing)))


def test_results_are_of_the_runs_that_are_there(tmp_path):
    """Not of runs that were there before, and not of what a user has chosen: over other datasets it is another AUROC."""
    for seed in (0, 1):
        (tmp_path / f"seed={seed}").mkdir()
        (tmp_path / f"seed={seed}" / "metrics.json").write_text(json.dumps({"seconds": 1.25 + seed, "metrics": {"single": {}}}))
    for seeds, together, folder, took in (
        ([0], False, "seed=0", 1.25),
        ([0, 1], True, "seeds=0,1", 3.5),
        ([1], True, "seeds=1", 2.25),
    ):
        path = tmp_path / folder / "evaluation" / "ood.json"
        path.parent.mkdir(parents=True)
        assert read_result(tmp_path, seeds, "ood", together) is None
        good = {"metrics": {}, "seconds": took}
        for record, found in ((good, good), (good | {"ood": ["noise"]}, None), (good | {"seconds": took + 0.5}, None), ("{", None)):
            path.write_text(record if isinstance(record, str) else json.dumps(record))
            assert read_result(tmp_path, seeds, "ood", together) == found


def test_the_papers_number_of_seeds_is_that_of_its_table(made, tmp_path):
    """Whatever ours is."""
    folder, outputs = made
    table = read_table(folder / "configs" / "table" / "mine.yaml")
    planner = Planner(folder / "configs", outputs, "digits", SMOKE, seeds=[0])
    found = collected(table, planner.plan([table])[0])
    assert (found["Base"].wanted, found["Base"].published, found["Deep ensemble"].published) == (2, 2, 1)
    assert planner.changes(table) == ["+scale=digits", "+debug=smoke"]


def test_a_run_at_work_is_waited_for(made, tmp_path):
    """By the sweep that is started for it: see ``test_run_errors.py``."""
    folder, outputs = made[0], Path(shutil.copytree(made[1], tmp_path / "outputs"))
    (run,) = outputs.glob("cifar10_lenet_lpbn/*/seed=1")
    (run / "metrics.json").unlink()
    with FileLock(run / ".lock"):
        _, planned = planned_again((folder, outputs))
        assert {job: state for job, state in planned.jobs.items() if state != "done"} == {planned.rows["Late"][1]: "running"}
        (command,) = training(planned, [], outputs)
        assert command[-1] == "seed=1"
    _, planned = planned_again((folder, outputs))
    assert [state for state in planned.jobs.values() if state != "done"] == ["begun"]
    assert len(training(planned, [], outputs)) == 1


def test_a_run_without_its_config_is_in_the_way(made, tmp_path):
    folder, outputs = made[0], Path(shutil.copytree(made[1], tmp_path / "outputs"))
    next(outputs.glob("cifar10_lenet_base/*/seed=0/config.yaml")).unlink()
    _, planned = planned_again((folder, outputs))
    with pytest.raises(UserError, match="seed=0 holds a run with another config"):
        refuse_stale(planned)
