"""``train.py`` and ``scripts/`` as a user types them: run directories, sweeps and evaluations."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from hydra._internal.utils import get_args_parser
from pictures import images
from PIL import Image
from safetensors.torch import load_file

TINY = ["epochs=1", "batch_size=8", "dataset.subset=24", "dataset.test_subset=20", "late_phase.T0=0", "late_phase.K=2"]


def test_the_default_is_an_experiment_and_its_directory_is_found_again(main, tmp_path):
    assert main(*TINY)[0] == 0
    (metrics,) = tmp_path.glob("outputs/digits_lenet_lpbn/*/seed=0/metrics.json")
    assert metrics.parent.parent.name == "epochs=1,batch_size=8,dataset.subset=24,dataset.test_subset=20,T0=0,K=2"
    assert json.loads(metrics.read_text())["variant"] == metrics.parent.parent.name
    status, output = main(*TINY, "runtime.threads=1")
    assert status == 0 and "is finished already" in output


def test_a_sweep_gives_each_job_its_directory(main, tmp_path):
    fixed = [o for o in TINY if not o.startswith("late_phase")]
    status, _ = main("-m", "+experiment=digits_lenet_lpbn", *fixed, "late_phase.T0=0,1", "late_phase.K=2", "seed=0,1")
    assert status == 0
    found = sorted(str(path.parent.relative_to(tmp_path / "outputs")) for path in tmp_path.glob("outputs/**/metrics.json"))
    common = "epochs=1,batch_size=8,dataset.subset=24,dataset.test_subset=20"
    assert found == [f"digits_lenet_lpbn/{common},T0={T0},K=2/seed={seed}" for T0 in (0, 1) for seed in (0, 1)]


def test_a_job_that_fails_does_not_stop_the_others(main, tmp_path):
    fixed = [o for o in TINY if not o.startswith("late_phase.T0")]
    status, _ = main("-m", *fixed, "late_phase.T0=0,300,1")
    assert "late_phase.T0=300 is after the last epoch (epochs=1)" in str(status)
    assert len(list(tmp_path.glob("outputs/**/metrics.json"))) == 2


def test_a_misspelt_key_in_an_experiment_file_is_an_error(main, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "typo.yaml").write_text("# @package _global_\nlate_phase:\n  sigma_0: 0.3\n")
    status, _ = main("--config-dir", str(tmp_path / "mine"), "+experiment=typo")
    assert status == "error: late_phase.sigma_0 is not a key of the config: did you mean sigma0?"


def test_a_run_is_evaluated_again_also_on_another_dataset(main, tmp_path):
    main(*TINY)
    (run,) = tmp_path.glob("outputs/digits_lenet_lpbn/*/seed=0")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    argument = f"run={run.relative_to(tmp_path)}"
    assert main(argument, script="scripts/evaluate.py")[0] == 0
    again = json.loads((run / "evaluation/accuracy.json").read_text())
    assert again["metrics"] == json.loads((run / "metrics.json").read_text())["metrics"]
    assert "add dataset=NAME" in str(main(argument, "dataset.test_subset=10", script="scripts/evaluate.py")[0])
    assert main(argument, "dataset=digits", "dataset.test_subset=10", script="scripts/evaluate.py")[0] == 0
    other = json.loads((run / "evaluation/digits/accuracy.json").read_text())
    assert other["metrics"]["single"].keys() == {"test_accuracy", "test_nll", "test_ece"}
    correct = other["metrics"]["single"]["test_accuracy"] * 10
    assert correct == pytest.approx(round(correct))
    assert {path: path.read_bytes() for path in before} == before
    images(tmp_path, *(f"mine/{split}/{name}/{i}.png" for split in ("train", "test") for name in "ab" for i in range(2)))
    status, _ = main(argument, "dataset=image_folder", "dataset.root=mine", script="scripts/evaluate.py")
    assert "mine with 2 classes and 3 channels doesn't fit the model" in str(status)
    main(argument, "dataset=digits", "dataset.validation=100", script="scripts/evaluate.py")
    main(argument, script="scripts/evaluate.py")  # no trace of the evaluation before
    assert json.loads((run / "evaluation/accuracy.json").read_text())["metrics"] == again["metrics"]
    (run / "members.safetensors").write_bytes(b"")
    assert "is damaged" in str(main(argument, script="scripts/evaluate.py")[0])
    status, _ = main("run=nowhere", script="scripts/evaluate.py")
    assert status == "error: run=nowhere holds no finished run: train it first, or give the directory with its metrics.json."


def test_runs_of_several_seeds_are_a_deep_ensemble(main, tmp_path):
    assert main("-m", "+experiment=digits_lenet_lpbn", *TINY, "seed=0,1,2")[0] == 0
    (folder,) = (path.parent for path in (tmp_path / "outputs/digits_lenet_lpbn").glob("*/seed=0"))
    assert main(f"run={folder}", "seeds=[0,2]", script="scripts/evaluate.py")[0] == 0
    found = load_file(folder / "seeds=0,2/predictions/test.safetensors")
    assert found["single"].shape == (2, 20, 10) and found["ensemble"].shape == (4, 20, 10)
    for i, seed in enumerate((0, 2)):
        one = load_file(folder / f"seed={seed}/predictions/test.safetensors")
        assert torch.equal(found["single"][i], one["single"][0])
        assert torch.equal(found["ensemble"][2 * i : 2 * i + 2], one["ensemble"])
    record = json.loads((folder / "seeds=0,2/evaluation/accuracy.json").read_text())
    assert record["seed"] == [0, 2] and len(set(record["config_hash"])) == 2
    mean = found["single"].exp().mean(0)
    nll = -mean[range(20), found["labels"]].log().mean().item()
    assert record["metrics"]["single"]["test_nll"] == pytest.approx(nll, rel=1e-4)
    assert main(f"run={folder}", script="scripts/evaluate.py")[0] == 0
    assert (folder / "seeds=0,1,2/evaluation/accuracy.json").exists()
    status, output = main(str(tmp_path / "outputs"), script="scripts/report.py")
    assert status in (0, None) and "deep ensemble of 2 " in output and "deep ensemble of 3 " in output
    assert "has directories seed=<n> for n in [0, 1, 2], not in [3]" in str(
        main(f"run={folder}", "seeds=[3]", script="scripts/evaluate.py")[0]
    )
    status, _ = main(f"run={folder / 'seed=0'}", "seeds=[0]", script="scripts/evaluate.py")
    assert "has directories seed=<n> for n in [], not in [0]: choose the folder above them" in str(status)


def test_the_report_leaves_out_what_was_not_measured(main, tmp_path):
    """The training loss of images that are streamed from disk, for example."""
    main(*TINY)
    (path,) = tmp_path.glob("outputs/**/metrics.json")
    record = json.loads(path.read_text())
    del record["metrics"]["single"]["train_loss"]
    path.write_text(json.dumps(record))
    status, output = main("outputs", script="scripts/report.py")
    (row,) = (line for line in output.splitlines() if "| single " in line)
    assert status in (0, None) and row.split("|")[-3].strip() == ""


def test_the_report_averages_over_seeds(main, tmp_path):
    for seed in (0, 1):
        main(*TINY, f"seed={seed}")
    status, output = main("outputs", "--to", "report", "--keep", script="scripts/report.py")
    assert status == 0
    assert main("report", script="scripts/report.py")[1] == output  # the numbers kept are enough for the table
    assert main("report", "report/digits_lenet_lpbn", script="scripts/report.py")[1] == output  # each run counts once
    records = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("outputs/**/metrics.json"))]
    accuracies = [100 * record["metrics"]["single"]["test_accuracy"] for record in records]
    mean, std = sum(accuracies) / 2, abs(accuracies[0] - accuracies[1]) / 2**0.5
    assert f"| {mean:.2f} ± {std:.2f}" in output
    assert (tmp_path / "report/table.md").read_text() in output
    with Image.open(tmp_path / "report/accuracy.png") as picture:
        assert picture.width > 500
    assert "no finished run below nowhere" in str(main("nowhere", script="scripts/report.py")[0])


def test_home_folders_stand_for_tildes_in_all_paths(main, tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    images(home, *(f"photos/{split}/{name}/{i}.png" for split in ("train", "test") for name in "ab" for i in range(2)))
    for root in ("~/photos", "'~/photos'"):
        status, _ = main("dataset=image_folder", f"dataset.root={root}", "dataset.cache=~/cache", "batch_size=5000")
        assert "batch_size=5000 is larger than the training set (4 images)" in str(status)
    assert (home / "cache").is_dir()
    assert main(*TINY, "hydra.run.dir=~/run/seed=0")[0] == 0
    assert main("run=~/run/seed=0", script="scripts/evaluate.py")[0] == 0
    assert main("run=~/run", "suite=ood", "ood=[noise]", "root=~/data", script="scripts/evaluate.py")[0] == 0
    given = ["architecture=lenet", "architecture.weights=~/run/seed=0", "dataset=digits", "to=~/to"]
    assert main(*given, script="scripts/evaluate.py")[0] == 0
    assert json.loads((home / "to/accuracy.json").read_text())["weights"] == f"{home}/run/seed=0"
    assert main(*TINY, "architecture.weights=~/run/seed=0")[0] == 0
    assert main("~/run", "--to=~/report", script="scripts/report.py")[0] == 0 and (home / "report/table.md").exists()
    assert main("n=4", "K=1", "eta=0.1", "target_norm=2.0", "window=1", "output=~/nqp.json", script="scripts/nqp.py")[0] == 0
    assert (home / "nqp.json").exists()
    status, _ = main("dataset=image_folder", "dataset.root=~nobody-of-this-name/a")
    assert "dataset.root=~nobody-of-this-name/a has no folder train" in str(status)
    assert {path.name for path in tmp_path.iterdir()} == {"home", "outputs"}


def test_a_config_file_has_paths_as_well(main, tmp_path, monkeypatch):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    for name, root in (("home", "~/photos"), ("empty", "")):
        text = f"# @package _global_\ndefaults:\n  - override /dataset: image_folder\ndataset:\n  root: '{root}'\n"
        (tmp_path / "mine" / "experiment" / f"{name}.yaml").write_text(text)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    status, _ = main("--config-dir=mine", "+experiment=home")
    assert f"dataset.root={tmp_path}/home/photos has no folder train" in str(status)
    status, _ = main("--config-dir=mine", "+experiment=empty")
    assert status == "error: dataset.root is empty: give a path, such as . for the current folder."


def test_a_run_whose_config_has_a_tilde_goes_on_as_it_is(main, tmp_path, monkeypatch):
    """Such a config was written before tildes became home folders when the command line is read."""
    monkeypatch.setenv("HOME", str(tmp_path))
    main(*TINY, "hydra.run.dir=weights/seed=0")
    assert main(*TINY, "architecture.weights=~/weights/seed=0", "hydra.run.dir=run/seed=0")[0] == 0
    config = tmp_path / "run/seed=0/config.yaml"
    config.write_text(config.read_text().replace(str(tmp_path), "~"))
    status, output = main(*TINY, "architecture.weights=~/weights/seed=0", "hydra.run.dir=run/seed=0")
    assert status == 0 and "is finished already" in output


def test_two_paths_of_like_names_are_two_runs(main, tmp_path):
    for name in ("v/1", "v-1"):
        images(tmp_path, *(f"{name}/{split}/{c}/{i}.png" for split in ("train", "test") for c in "ab" for i in range(4)))
        base = ["+experiment=digits_lenet_base", "epochs=1", "batch_size=4", "dataset=image_folder"]
        assert main(*base, f"dataset.root={name}")[0] == 0
    assert len(list(tmp_path.glob("outputs/digits_lenet_base/*/seed=0/metrics.json"))) == 2


def test_the_current_folder_can_be_the_runs_and_is_never_removed(main, tmp_path, monkeypatch):
    (tmp_path / "empty" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "empty" / "here")
    for directory in (".", "a/b", ".."):
        status, _ = main("late_phase.T0=300", f"hydra.run.dir={directory}")
        assert "is after the last epoch" in str(status)
        assert list((tmp_path / "empty").rglob("*")) == [tmp_path / "empty" / "here"]
    for directory in (".", "a b, c/${seed}"):
        assert main(*TINY, f"hydra.run.dir={directory}")[0] == 0
    assert Path("metrics.json").exists() and Path("a b, c/0/metrics.json").exists()


def test_jobs_of_a_sweep_do_not_share_the_folder_above_them(main, tmp_path):
    status, _ = main("-m", *TINY, "hydra.sweep.subdir=", "seed=0,1")
    assert str(status).startswith("error: hydra.sweep.subdir is empty: leave it out")
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["multirun.yaml"]


@pytest.mark.parametrize("sweep", ["{0}/seed=0,{0}/seed=1", "choice({0}/seed=0,{0}/seed=1)", "'{0}/seed=0',{0}/seed=1"])
def test_a_sweep_over_runs_evaluates_each(main, tmp_path, sweep):
    assert main("-m", *TINY, "seed=0,1")[0] == 0
    (folder,) = (path.parent for path in (tmp_path / "outputs/digits_lenet_lpbn").glob("*/seed=0"))
    folder = folder.rename(tmp_path / "a=1")
    assert main("-m", f"run={sweep.format('a=1')}", script="scripts/evaluate.py")[0] == 0
    assert len(list(folder.glob("seed=*/evaluation/accuracy.json"))) == 2


def test_a_job_that_fails_does_not_stop_the_other_evaluations(main, tmp_path):
    main(*TINY, "hydra.run.dir=a/seed=0")
    status, _ = main("-m", "run=nowhere,a/seed=0", script="scripts/evaluate.py")
    assert "run=nowhere holds no finished run" in str(status)
    assert (tmp_path / "a/seed=0/evaluation/accuracy.json").exists()


def test_argparse_can_read_every_help_of_hydras():
    """Python 3.14's argparse reads each help as it is added, and refuses Hydra's lazy one; older ones only read it to print it."""
    parser = get_args_parser()
    for action in parser._actions:
        assert isinstance(argparse.HelpFormatter(prog="train.py")._expand_help(action), str)
    assert any("shell completion" in str(action.help) for action in parser._actions)  # what Hydra prints itself is as it was


@pytest.mark.parametrize("script", ["train.py", "scripts/evaluate.py", "scripts/nqp.py"])
def test_hydras_own_help_is_whole(main, script):
    status, output = main("--hydra-help", script=script)
    assert status == 0
    assert "Install or Uninstall shell completion:" in output and "Bash - Install:" in output
