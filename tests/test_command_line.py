"""``train.py`` and ``scripts/`` as a user types them: run directories, sweeps, and mistakes answered in one sentence."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest
import torch
from hydra._internal.utils import get_args_parser
from PIL import Image
from safetensors.torch import load_file

TINY = ["epochs=1", "batch_size=8", "dataset.subset=24", "dataset.test_subset=20", "late_phase.T0=0", "late_phase.K=2"]


def images(folder: Path, *names: str, size: int = 32) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((size, size), 50).save(folder / name)


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
    assert "late_phase.T0=300 is after the last epoch (1)" in str(status)
    assert len(list(tmp_path.glob("outputs/**/metrics.json"))) == 2


MISTAKES = {
    "a misspelt key": (["late_phase.T00=3"], r"late_phase\.T00 is not a key of the config: did you mean T0\?"),
    "a misspelt key at the top": (["epohcs=3"], r"epohcs is not a key of the config: did you mean epochs\?"),
    "a key added": (["+optimizer.beta=3"], r"optimizer\.beta is not a key of the config: choose one of name, lr,"),
    "a wrong type": (["epochs=abc"], r"epochs: Value 'abc' of type 'str' could not be converted to Integer"),
    "a wrong type inside": (["late_phase.K=2.5"], r"late_phase\.K: Value '2\.5'"),
    "an unknown dataset": (
        ["dataset=mnist"],
        r"dataset=mnist is unknown: choose one of breast_cancer, california_housing, cifar10, ",
    ),
    "an unknown experiment": (
        ["+experiment=cifar10_wrn"],
        r"experiment=cifar10_wrn is unknown: did you mean cifar10_wrn_\w+, .* or another of configs/experiment/\?",
    ),
    "an unknown choice": (["late_phase.running_statistics=median"], "running_statistics=median is unknown: choose one of mean,"),
    "a name without its group": (["architecture.name=wrn"], "architecture.name can't be set by itself"),
    "an unknown device": (["runtime.device=cuda:99"], r"runtime\.device=cuda:99 is not available here"),
    "T0 after the end": (["late_phase.T0=300"], r"late_phase\.T0=300 is after the last epoch \(60\): choose"),
    "no members": (["late_phase.K=0"], r"late_phase\.K=0 is out of range"),
    "members without late-phase weights": (["late_phase=none", "late_phase.K=3"], "late_phase.K=3 needs late-phase weights"),
    "negative noise": (["late_phase.sigma0=-1"], r"late_phase\.sigma0=-1\.0 is out of range"),
    "no noise at all": (["late_phase.sigma0=nan"], r"late_phase\.sigma0=nan is out of range"),
    "a batch larger than the data": (["batch_size=5000"], r"batch_size=5000 is larger than the training set \(1437 images\)"),
    "a batch of one": (["dataset.subset=33", "batch_size=32"], "batch_size=32 leaves one of the 33 images alone in a minibatch"),
    "a subset larger than the data": (["dataset.subset=2000"], "ask for more than the 1437 training images of digits"),
    "a missing image folder": (["dataset=image_folder", "dataset.root=nowhere"], r"dataset\.root=nowhere has no folder train"),
    "no image folder given": (["dataset=image_folder"], r"dataset\.root is not set: add dataset\.root=VALUE\."),
    "an empty image folder": (["dataset=image_folder", "dataset.root=empty"], r"dataset\.root=empty has no class folders in train"),
    "an unreadable image": (["dataset=image_folder", "dataset.root=broken"], r"broken/train/a/2\.png is not a readable image"),
    "images of a size that does not fit": (
        ["dataset=image_folder", "dataset.root=large"],
        "lenet takes images of 32 x 32 pixels, not 40 x 40: set dataset.image_size=32",
    ),
    "images of no size": (
        ["dataset=image_folder", "dataset.root=large", "dataset.image_size=0"],
        r"dataset\.image_size=0 is out of",
    ),
    "images larger than the memory": (
        ["dataset=image_folder", "dataset.root=large", "dataset.image_size=1000000"],
        r"dataset\.image_size=1000000 with 3 images needs about 8,381\.9 GiB of memory, .* GiB: choose a smaller one",
    ),
    "padding larger than the memory": (
        ["dataset.crop_padding=100000000"],
        r"dataset\.crop_padding=100000000 around 1,437 images of 32 x 32 pixels needs about 1,073,741,824\.0 GiB of memory or more",
    ),
    "no network": (
        ["dataset=cifar10"],
        r"lacks cifar-10-python\.tar\.gz \(170,498,071 bytes, md5 c58f3010\w+\), which could not be downloaded .* put it there",
    ),
    "half a schedule": (["schedule.epochs=[1,2,3]"], r"schedule\.epochs=\[1, 2, 3\] and schedule\.factors=\[1\.0, 0\.01\] don't"),
    "a list of lists": (["schedule.epochs=[[1]]"], r"schedule\.epochs=\[\[1\]\] has lists in it: write schedule\.epochs=\[VALUE,"),
    "a pattern in two lists": (["late_phase=select", "late_phase.select=[[bn1]]"], r"select=\[\['bn1'\]\] has lists in it: write"),
    "momentum missing": (["optimizer.momentum=0"], "optimizer.nesterov needs momentum"),
    "an impossible architecture": (["architecture=wrn", "architecture.depth=27"], r"architecture\.depth=27 is not 6 n \+ 4"),
    "debug overruled": (["+debug=smoke", "+experiment=digits_lenet_base"], "put .debug after .experiment"),
    "a list of experiments": (["+experiment=[digits_lenet_base,digits_lenet_lpbn]"], "is a list, but a run has one experiment"),
    "nonsense": (["epochs=[3"], r"'epochs=\[3' can't be read .*: write KEY=VALUE"),
    "a value without a key": (["=5"], "'=5' has no key: write KEY=VALUE"),
    "a key without a value": (["epochs"], "'epochs' has no value: write epochs=VALUE"),
    "nothing for a number": (["seed="], "seed: Value '' of type 'str' could not be converted to Integer"),
    "a number for a choice": (["late_phase=3"], "late_phase=3 doesn't name a choice: write late_phase=NAME"),
    "nothing for a choice": (["dataset="], "dataset= is unknown: choose one of breast_cancer, california_housing, cifar10"),
    "a launcher that isn't installed": (["hydra/launcher=nowhere"], "hydra/launcher=nowhere is unknown: choose one of basic"),
    "a sweep without -m": (["epochs=3,4"], "epochs=3,4 has several values: put -m before it"),
    "another sweep without -m": (["epochs=choice(3,4)"], "has several values: put -m before it"),
    "a key taken away": (["~epochs"], "epochs is not set: add epochs=VALUE"),
    "an interpolation of nothing": (["dataset.mean=${nothing}"], r"\$\{nothing\} is not a key of the config"),
    "an empty path": (["architecture.weights="], "architecture.weights is empty: give a path, such as . for the current folder"),
    "another empty path": (["dataset=image_folder", "dataset.root=''"], "dataset.root is empty: give a path"),
    "an empty directory": (
        ["hydra.run.dir=''"],
        "hydra.run.dir is empty: leave it out, or give a path,",
    ),
    "an option that there is not": (["--no-such-flag"], "unrecognized arguments: --no-such-flag"),
    "no plus": (["experiment=digits_lenet_base"], r"write \+experiment=NAME"),
    "a learning rate that is no number": (["optimizer.lr=nan"], r"optimizer\.lr=nan is out of range"),
    "a momentum above one": (["optimizer.momentum=2"], r"optimizer\.momentum=2\.0 is out of range"),
    "half of Adam": (["optimizer=adam", "optimizer.betas=[0.9]"], r"optimizer\.betas=\[0\.9\] must be two numbers"),
    "gradient ascent": (["schedule.factors=[1,-1]"], "no factor below 0"),
    "a device without memory": (["runtime.device=meta"], r"runtime\.device=meta is not available here"),
    "averaging that never begins": (["averaging=swa"], r"averaging\.start=160 leaves none of 60 epochs to average"),
    "averaging without a beginning": (["averaging=swa", "averaging.start=null"], r"averaging\.start is not set"),
    "a Gaussian of many members": (["averaging=swag", "averaging.start=1"], "averaging=swag is a Gaussian over the weights of one"),
    "a covariance of rank 1": (["averaging=swag", "averaging.start=1", "averaging.rank=1"], r"averaging\.rank=1 is out of range"),
    "an average that never moves": (
        ["averaging=ema", "averaging.decay=1"],
        r"averaging\.decay=1\.0 is out of range: choose from 0",
    ),
    "an average of nothing": (["averaging=lawa", "averaging.models=0"], r"averaging\.models=0 is out of range: choose a number"),
    "more weights than memory": (
        ["averaging=lawa", "averaging.models=1000000000000", "epochs=1000000000000"],
        r"averaging\.models=1000000000000 needs about .* GiB: choose a smaller number",
    ),
    "a schedule for what needs none": (
        ["optimizer=schedule_free"],
        r"schedule\.name=piecewise_linear changes the learning rate, but optimizer=schedule_free averages instead: choose sch",
    ),
    "an average of averages": (
        ["optimizer=schedule_free_adamw", "schedule=constant", "averaging=ema"],
        "averaging=ema would average what optimizer=schedule_free_adamw averages already: choose averaging=none",
    ),
    "an average with no share": (
        ["optimizer=schedule_free", "schedule=constant", "optimizer.momentum=0"],
        r"optimizer\.momentum=0\.0 is out of range: choose from above 0",
    ),
    "another average with no share": (
        ["optimizer=schedule_free_adamw", "schedule=constant", "optimizer.betas=[0,0.9]"],
        r"optimizer\.betas=\[0\.0, 0\.9\] begins with 0",
    ),
    "a warm-up that ended before": (
        ["optimizer=schedule_free", "schedule=constant", "optimizer.warmup_steps=-1"],
        r"optimizer\.warmup_steps=-1 is out of range",
    ),
    "a look ahead of no step": (["averaging=lookahead", "averaging.steps=0"], r"averaging\.steps=0 is out of range"),
    "a look ahead in vain": (
        ["averaging=lookahead", "averaging.alpha=0"],
        r"averaging\.alpha=0\.0 is out of range: choose from above",
    ),
    "members pulled too far": (["late_phase.pull=1.5"], r"late_phase\.pull=1\.5 is out of range: choose from 0 to 1"),
    "nothing to pull": (["late_phase=accumulation", "late_phase.pull=1"], r"late_phase\.pull=1\.0 needs late-phase weights, but"),
    "momentum for ever": (["late_phase.outer=1"], r"late_phase\.outer=1\.0 is out of range: choose from 0 to below 1"),
    "momentum of frozen weights": (
        ["late_phase.outer=0.5", "late_phase.gamma_theta=0"],
        r"late_phase\.outer=0\.5 needs base weights that move: choose 0",
    ),
    "momentum of no late phase": (
        ["late_phase=none", "late_phase.T0=null", "late_phase.outer=0.5"],
        r"late_phase\.outer=0\.5 needs a late phase, but late_phase=none has none",
    ),
    "momentum of no base weights": (
        ["late_phase=full", "late_phase.outer=0.5"],
        r"late_phase=full with architecture=lenet: outer=0\.5 is for the steps of base weights, but none of these moves",
    ),
    "weights moved behind an average": (
        ["optimizer=schedule_free", "schedule=constant", "late_phase.pull=0.5"],
        r"late_phase\.pull=0\.5 would change weights that optimizer=schedule_free averages: choose 0",
    ),
    "an ensemble of ensembles": (["ensemble=batch_ensemble"], "ensemble=batch_ensemble has members of its own"),
    "fast weights of no kind": (
        ["ensemble=batch_ensemble", "late_phase=none", "late_phase.T0=null", "ensemble.init=ones"],
        r"ensemble\.init=ones is unknown: choose one of normal, sign",
    ),
    "rank-1 weights that may vanish": (["late_phase=rank1", "late_phase.spread=1"], r"late_phase\.spread=1\.0 is out of range"),
    "weights that would be lost": (
        ["late_phase=hypernetwork", "architecture.weights=here.pt"],
        "late_phase=hypernetwork generates new weights for all convolutions: leave out architecture.weights",
    ),
    "weights that are not there": (["architecture.weights=here.pt"], r"architecture\.weights=here\.pt"),
    "a probability of 1": (["architecture.dropout=1"], r"architecture\.dropout=1\.0 is out of range"),
    "grey images for an ImageNet model": (["architecture=resnet50"], r"architecture=resnet50 with dataset=digits: .*channels"),
    "ascent of the base weights": (["late_phase.gamma_theta=-1"], r"late_phase\.gamma_theta=-1\.0 is out of range"),
    "training on what has no classes": (["dataset=noise"], "dataset=noise is for evaluation only and has no training images"),
    "a negative seed": (["seed=-1"], r"seed=-1 is out of range: choose from 0 to below 2\^63"),
    "a seed of the split that is none": (["dataset.split_seed=-1"], r"dataset\.split_seed=-1 is out of range: choose from 0"),
    "no ImageNet": (["dataset=imagenet", "architecture=resnet50"], r"dataset\.root=.*imagenet lacks the folder train"),
    "the last layer of nothing": (["late_phase=accumulation", "late_phase.head=true"], "choose late_phase=head"),
    "the last layer without it": (["late_phase=head", "late_phase.head=false"], r"late_phase\.head=False leaves no late-phase"),
    "nothing to train": (["late_phase=accumulation", "late_phase.gamma_theta=0"], "leaves nothing to train after T0"),
    "more members than minibatches": (["late_phase.K=500", "epochs=21"], r"K=500 is more than the 45 minibatches after T0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_one_sentence_and_leaves_nothing(main, tmp_path, mistake):
    for split in ("train", "test"):
        (tmp_path / "empty" / split).mkdir(parents=True)
        images(tmp_path, *(f"{folder}/{split}/a/{i}.png" for folder in ("broken", "large") for i in range(3)), size=40)
    (tmp_path / "broken/train/a/2.png").write_bytes(b"\x89PNG not quite")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    arguments, pattern = MISTAKES[mistake]
    status, _ = main(*arguments)
    assert isinstance(status, str), "it ended well"
    assert status.startswith("error: ") and "\n" not in status and len(status) < 500
    assert re.search(pattern, status), status
    left = {path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"} - before
    assert all(path.parent == tmp_path / "data/cache" and path.suffix == ".safetensors" for path in left)
    assert not (tmp_path / "outputs").exists()


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
