"""Which directories are finished runs, each counted once, and what is kept of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from late_phase.reporting.runs import copy_runs, find_runs, table
from late_phase.support.errors import UserError

REPORT = "scripts/report.py"


def make(directory: Path, seed: int | list[int] = 0, accuracy: float = 0.5) -> Path:
    """The files of a finished run that a report reads."""
    variant = directory.parent if isinstance(seed, int) else directory.parents[1]
    record = {"experiment": variant.parent.name, "variant": variant.name, "seed": seed, "seconds": 1.5}
    record["metrics"] = {"single": {"test_accuracy": accuracy, "test_nll": 1.0}}
    directory.mkdir(parents=True)
    if isinstance(seed, int):
        (directory / "config.yaml").write_text("epochs: 2\nlate_phase: {name: batchnorm, T0: 1}\n")
        (directory / "history.csv").write_text(f"epoch,test_accuracy\n1,0.1\n2,{accuracy}\n")
    (directory / ("metrics.json" if isinstance(seed, int) else "accuracy.json")).write_text(json.dumps(record))
    return directory


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two seeds of a run, and their deep ensemble; the folder above them."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "digits" / "default"
    for seed, accuracy in ((0, 0.5), (1, 0.7)):
        make(folder / f"seed={seed}", seed, accuracy)
    make(folder / "seeds=0,1" / "evaluation", [0, 1], 0.8)
    return folder


def found(*places: Path | str) -> list[int | list[int]]:
    return [run.record["seed"] for run in find_runs(map(Path, places))]


def test_runs_below_a_folder_and_a_folder_given_twice(runs):
    for places in (["outputs"], [runs], ["outputs", runs, runs / "seed=1", runs / ".." / "default"], [runs, runs / "seeds=0,1"]):
        assert found(*places) == [0, 1, [0, 1]]


def test_a_run_is_a_directory_with_metrics_whatever_its_name(runs, tmp_path, main):
    shutil.move(runs / "seed=0", tmp_path / "best")
    (tmp_path / "link").symlink_to(runs / "seed=1", target_is_directory=True)
    (tmp_path / "seed=7").symlink_to(tmp_path / "best", target_is_directory=True)
    assert found("best") == found("best/metrics.json") == found("seed=7") == found("best", "seed=7") == [0]
    assert found("link") == found("link", runs / "seed=1") == [1]
    assert found("best", "link") == [0, 1]
    status, output = main("best", "link/metrics.json", "--to", "to", script=REPORT)
    assert status == 0 and "| digits | single | 60.00 ± 14.14 " in output and (tmp_path / "to" / "accuracy.png").exists()


def test_a_deep_ensemble_is_found_by_its_own_folder(runs):
    assert found(runs / "seeds=0,1") == found(runs / "seeds=0,1", runs / "seeds=0,1") == [[0, 1]]


def test_a_copy_is_the_same_run(runs, tmp_path):
    """Beside the original, under another name, and as a report keeps it."""
    shutil.copytree(runs / "seed=0", tmp_path / "copy")
    copy_runs(find_runs([runs]), tmp_path / "kept")
    assert found(runs, "copy", "kept") == [0, 1, [0, 1]] and found("copy", runs / "seed=0") == [0]
    expected = table(find_runs([runs]))
    assert table(find_runs([tmp_path / "kept"])) == table(find_runs([runs, tmp_path / "copy"])) == expected
    make(tmp_path / "elsewhere" / "digits" / "default" / "seed=0", 0, 0.6)  # not a copy: trained again
    assert found(runs / "seed=0", "elsewhere") == [0, 0]


def test_kept_runs_have_the_names_that_they_were_trained_under(runs, tmp_path, main):
    shutil.copytree(runs / "seed=0", tmp_path / "best")
    before = (tmp_path / "best" / "metrics.json").read_bytes()
    assert main("best", "--to", "to", "--keep", script=REPORT)[0] == 0
    assert (tmp_path / "to/digits/default/seed=0/metrics.json").read_bytes() == before
    assert main("to", "--to", "to", "--keep", script=REPORT)[0] == 0, "onto itself"
    assert (tmp_path / "to/digits/default/seed=0/metrics.json").read_bytes() == before
    other = make(tmp_path / "elsewhere" / "digits" / "default" / "seed=0", 0, 0.6)
    status, _ = main("best", "elsewhere", "--to", "both", "--keep", script=REPORT)
    assert status == f"error: {tmp_path / 'best'} and {other} have the same name and seed: keep only one of them."
    assert not (tmp_path / "both" / "digits").exists()


NO_RUN = "there is no finished run below {}: train one first, or give the directory with its metrics.json."


@pytest.mark.parametrize("place", ["nowhere", "empty", "outputs/digits/default/seed=0/history.csv", "half"])
def test_a_place_without_a_run_is_an_error_also_beside_others(runs, tmp_path, main, place):
    (tmp_path / "empty").mkdir()
    shutil.copytree(runs / "seed=0", tmp_path / "half")
    (tmp_path / "half" / "metrics.json").unlink()
    for places in ([place], ["outputs", place]):
        status, output = main(*places, "--to", "to", script=REPORT)
        assert status == f"error: {NO_RUN.format(place)}" and not output
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("metrics.json", "{", "Expecting property name"),
        ("metrics.json", "[]", "list indices"),
        ("metrics.json", '{"metrics": {}}', "metrics.json has no metrics of a run"),
        ("metrics.json", '{"metrics": {"loss": 3}}', "metrics.json has no metrics of a run"),
        ("metrics.json", '{"metrics": {"single": {}}}', "metrics.json lacks experiment, variant, seed"),
        ("history.csv", None, "No such file"),
        ("config.yaml", "a: [", "while parsing"),
        ("config.yaml", "epochs: 3", "late_phase"),
    ],
)
def test_a_damaged_run_is_named_in_one_sentence(runs, name, content, reason):
    path = runs / "seed=0" / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=f"seed=0 is not a complete run .*{reason}.*: repair it, or leave it out") as error:
        find_runs([runs])
    assert "\n" not in str(error.value)


def test_a_place_for_the_report_that_is_a_file_is_refused_before_the_table(runs, main):
    (runs / "file").write_text("mine")
    status, output = main("outputs", "--to", str(runs / "file"), script=REPORT)
    assert status == f"error: --to={runs / 'file'} can't be made (File exists): choose another folder." and not output
