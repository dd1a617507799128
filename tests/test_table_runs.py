"""Models of tables by the whole way, from config to metrics; for tables what test_methods.py and test_run.py are for images."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import ROOT, Main
from runs import assert_same_results, files_in, history, run_until
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, log_loss, r2_score, root_mean_squared_error

import late_phase.export.load
from late_phase import data
from late_phase.architectures import build
from late_phase.config.training import TrainConfig
from late_phase.runs.models import models_of_runs
from late_phase.support.errors import UserError
from late_phase.training.loop import run

# 5 minibatches an epoch, the last one shorter, and 3 members: epochs end inside of an iteration.
TINY = (
    "architecture=mlp",
    "optimizer=adamw",
    "schedule=constant",
    "architecture.depth=2",
    "architecture.width=8",
    "batch_size=7",
    "dataset.subset=33",
    "dataset.test_subset=30",
    "epochs=5",
    "optimizer.lr=0.02",
    "runtime.progress=false",
)
LATE = ("late_phase.K=3", "late_phase.T0=1", "late_phase.sigma0=0.1")
NONE = ("late_phase=none", "late_phase.K=1", "late_phase.T0=null")
BATCH_ENSEMBLE = (*NONE, "ensemble=batch_ensemble", "ensemble.K=3")


class Method(NamedTuple):
    """What chooses a method, and what its runs leave: number of members by the name of the predictor."""

    overrides: tuple[str, ...]
    predictors: dict[str, int]


BOTH = {"single": 1, "ensemble": 3}
METHODS = {
    "base": Method(NONE, {"single": 1}),
    "early stopping": Method((*NONE, "patience=1", "optimizer.lr=0.3"), {"single": 1}),
    "lprank1": Method(("late_phase=rank1", *LATE), BOTH),
    "lpadapters": Method(("late_phase=adapters", *LATE), BOTH),
    "lpadapters, early stopping": Method(("late_phase=adapters", *LATE, "patience=1", "optimizer.lr=0.3"), BOTH),
    "lphead": Method(("late_phase=head", *LATE), BOTH),
    "lpfull, swa": Method(("late_phase=full", *LATE, "averaging=swa", "averaging.start=2"), BOTH | {"swa": 1, "swa_ensemble": 3}),
    "dropout": Method((*NONE, "architecture.dropout=0.3", "architecture.mc_samples=4"), {"single": 1, "mc_dropout": 4}),
    "batch_ensemble": Method(BATCH_ENSEMBLE, {"ensemble": 3}),
    "tabm": Method((*BATCH_ENSEMBLE, "ensemble.init=first", "ensemble.average=true"), {"ensemble": 3, "single": 1}),
    "tabm, own minibatches": Method((*BATCH_ENSEMBLE, "ensemble.init=first", "ensemble.minibatches=own"), {"ensemble": 3}),
}
every_method = pytest.mark.parametrize("method", METHODS)


def tiny(method: str, dataset: str = "diabetes") -> tuple[str, ...]:
    """Choices of groups come before their keys, so that these aren't overruled."""
    own = METHODS[method].overrides
    choices = [f"dataset={dataset}", *(o for o in own if "." not in o.partition("=")[0] and not o.startswith("patience"))]
    return (*choices, *TINY, *(o for o in own if o not in choices))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, composed: Callable[..., TrainConfig]) -> Callable[..., Path]:
    """The directory of a finished run of a method, which is made once."""
    root = tmp_path_factory.mktemp("finished")

    def directory(method: str, dataset: str = "diabetes") -> Path:
        path = root / f"{dataset}_{method}" / "default" / "seed=0"
        if not (path / "metrics.json").exists():
            run(composed(*tiny(method, dataset)), path)
        return path

    return directory


@pytest.mark.parametrize(
    ("method", "dataset"),
    [*((method, "diabetes") for method in METHODS), *((m, "breast_cancer") for m in ("base", "lpadapters", "dropout", "tabm"))],
)
def test_it_trains_and_its_metrics_are_scikit_learns(method, dataset, finished):
    directory, expected = finished(method, dataset), METHODS[method].predictors
    record = json.loads((directory / "metrics.json").read_text())
    rows = history(directory)
    split = data.load(dataset).split(0.16, 0.2, 33, 30, 0)
    assert list(record["metrics"]) == list(expected) and record["table_sha256"] == split.sha256
    column = "train_rmse" if dataset == "diabetes" else "train_loss_nats"
    assert float(rows[1][column]) < float(rows[0][column]) or "stopping" in method
    for part, targets in {name: own.targets for name, own in split.parts().items()}.items():
        predictions = load_file(directory / "predictions" / f"{part}.safetensors")
        np.testing.assert_array_equal(predictions.pop("targets"), targets)
        assert predictions.keys() == expected.keys()
        for name, members in predictions.items():
            assert len(members) == expected[name] and (len(members) == 1 or not torch.equal(members[0], members[1]))
            metrics = {key.removeprefix(f"{part}_"): value for key, value in record["metrics"][name].items() if part in key}
            if dataset == "diabetes":
                mean = members.numpy().mean(0)
                assert metrics.pop("rmse") == pytest.approx(root_mean_squared_error(targets, mean), rel=1e-6)
                if part != "train":
                    assert metrics.pop("r2") == pytest.approx(r2_score(targets, mean), rel=1e-6)
            else:
                mean = members.double().exp().numpy().mean(0)
                loss = log_loss(targets, mean / mean.sum(1, keepdims=True))
                assert metrics.pop("loss" if part == "train" else "nll") == pytest.approx(loss, rel=1e-5)
                if part != "train":
                    assert metrics.pop("accuracy") == accuracy_score(targets, mean.argmax(1))
                    assert 0 <= metrics.pop("ece") <= 1
            assert not metrics


@every_method
# Within the first epoch; after T0 and the first average, within epoch and iteration.
@pytest.mark.parametrize("steps", [pytest.param(3, marks=pytest.mark.slow), 18])
def test_it_resumes_to_the_same_bytes(method, steps, finished, tmp_path, composed):
    directory = tmp_path / "a" / "default" / "seed=0"
    of_all = 5 * len(history(finished(method)))
    run_until(min(steps, of_all - 2), composed(*tiny(method)), directory)
    run(composed(*tiny(method)), directory)
    assert_same_results(directory, finished(method))


@pytest.mark.parametrize("method", [name for name, own in METHODS.items() if "ensemble.K=3" not in own.overrides])
def test_it_exports_a_plain_model_that_takes_raw_rows(method, finished):
    directory = finished(method)
    plain = build("mlp", 10, 1, depth=2, width=8)
    plain.load_state_dict(load_file(directory / "model.safetensors"), strict=True)
    model = late_phase.export.load.load(directory)
    rows = data.load("diabetes").split(0.16, 0.2, 33, 30, 0).test
    with torch.no_grad():
        predicted = model.encoding.mean + model.encoding.std * model(model.encoding(rows.columns))[:, 0].double()
    kept = load_file(directory / "predictions" / "test.safetensors")["single"][0]
    torch.testing.assert_close(predicted, kept)


# Early stopping.


@pytest.mark.parametrize("method", ["early stopping", "lpadapters, early stopping"])
def test_early_stopping_keeps_the_best_epoch_and_waits_for_its_patience(method, finished, composed, tmp_path):
    """Against a run of all epochs, whose weights after the best epoch are those that are kept."""
    rows, first = history(finished(method)), 1 if "lp" in method else 0
    scores = [float(row["validation_rmse"]) for row in rows]
    best = first + int(np.argmin(scores[first:]))
    assert best < len(rows) - 1 < 4 and len(rows) - 1 - best == 1, "the test needs a run that stops before its last epoch"
    metrics = json.loads((finished(method) / "metrics.json").read_text())["metrics"]
    assert metrics["single"]["validation_rmse"] == pytest.approx(scores[best], rel=1e-6)
    config = composed(*tiny(method))
    config.patience, config.epochs = None, best + 1
    directory = tmp_path / "a" / "default" / "seed=0"
    run(config, directory)
    for name in ("model.safetensors", *(["members.safetensors", "base.safetensors"] if first else [])):
        assert (directory / name).read_bytes() == (finished(method) / name).read_bytes(), name


def test_with_a_long_patience_the_best_of_all_epochs_is_kept(tmp_path, composed):
    config = composed(*tiny("early stopping"), "patience=50")
    record = run(config, tmp_path / "a" / "default" / "seed=0")
    rows = history(tmp_path / "a" / "default" / "seed=0")
    assert len(rows) == 5
    scores = [float(row["validation_rmse"]) for row in rows]
    assert record["metrics"]["single"]["validation_rmse"] == pytest.approx(min(scores), rel=1e-6) and min(scores) < scores[-1]


def test_a_run_that_was_killed_after_its_last_epoch_keeps_the_best(finished, tmp_path, composed):
    directory = tmp_path / "a" / "default" / "seed=0"
    directory.mkdir(parents=True)
    for name in ("config.yaml", "checkpoint.pt"):
        (directory / name).write_bytes((finished("early stopping") / name).read_bytes())
    run(composed(*tiny("early stopping")), directory)
    assert (directory / "model.safetensors").read_bytes() == (finished("early stopping") / "model.safetensors").read_bytes()
    assert history(directory) == history(finished("early stopping"))


def test_early_stopping_takes_the_average_of_its_epoch_too(tmp_path, composed):
    overrides = (*tiny("lpfull, swa"), "optimizer.lr=0.3")
    stopped = composed(*overrides, "patience=1")
    run(stopped, tmp_path / "stopped" / "default" / "seed=0")
    scores = [float(row["validation_rmse"]) for row in history(tmp_path / "stopped" / "default" / "seed=0")]
    best = 2 + int(np.argmin(scores[2:]))  # the average starts after two epochs
    whole = composed(*overrides)
    whole.epochs = best + 1
    run(whole, tmp_path / "whole" / "default" / "seed=0")
    for name in ("model.safetensors", "swa/model.safetensors", "swa/members.safetensors"):
        one, other = (tmp_path / folder / "default" / "seed=0" / name for folder in ("stopped", "whole"))
        assert one.read_bytes() == other.read_bytes(), name


# Files of the user's.


def write_table(path: Path, rows: int = 80, text: str = "auto") -> None:
    random = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["size", "colour", "constant", "id", "price"])
        for i in range(rows):
            size, colour = random.normal(), ("red", "green", "blue")[i % 3]
            writer.writerow(["" if i % 9 == 4 else f"{size:.4f}", colour, 7, f"id{i}", f"{10 + size + (i % 3):.4f}"])


def of_file(path: Path, *overrides: str) -> tuple[str, ...]:
    choices = ("dataset=table_file", *TINY[:3], "late_phase=adapters", *LATE)
    own = (f"dataset.path='{path}'", "dataset.target=price", "dataset.ignore=[id]", *TINY[3:6], *TINY[8:])
    return (*choices, *own, *overrides)


def test_a_users_table_trains_and_is_evaluated(tmp_path, main: Main):
    """With another table of the same columns, by commands."""
    path, other = tmp_path / "mine.csv", tmp_path / "other.csv"
    write_table(path)
    write_table(other, 40)
    where = tmp_path / "outputs" / "mine" / "default" / "seed=0"
    status, output = main(*of_file(path), f"hydra.run.dir='{where}'")
    assert status == 0, status
    assert "mine: left out, as they are constant in the training rows: constant." in output
    assert "test RMSE" in output and "R²" in output
    status, output = main(
        *(f"run='{where}'", "dataset=table_file", f"dataset.path='{other}'", "dataset.target=price", "dataset.ignore=[id]"),
        script="scripts/evaluate.py",
    )
    assert status == 0, status
    record = json.loads((where / "evaluation" / "other" / "accuracy.json").read_text())
    assert record["rows"] == 8 and {"test_rmse", "test_r2"} < record["metrics"]["ensemble"].keys()
    assert load_file(where / "evaluation" / "other" / "test.safetensors")["ensemble"].shape == (3, 8)
    status, output = main(str(where), "--to", str(tmp_path / "to"), script="scripts/report.py")
    assert status == 0, status
    assert "test RMSE" in output and "test R²" in output and (tmp_path / "to" / "rmse.png").exists()


def test_the_table_of_a_run_can_not_be_another_one(tmp_path, composed):
    path, directory = tmp_path / "mine.csv", tmp_path / "a" / "b" / "seed=0"
    write_table(path)
    config = composed(*of_file(path))
    run_until(4, config, directory)
    write_table(path, 81)
    with pytest.raises(UserError, match="the table has changed since the checkpoint was written"):
        run(config, directory)
    write_table(path)
    run(config, directory)
    write_table(path, 81)
    with pytest.raises(
        UserError, match=r"trained on other data than table_file or another run has \(table with sha256 \w+, here \w+\)"
    ):
        models_of_runs(directory, None, None, torch.device("cpu"))
    config = composed(*of_file(path, f"architecture.weights='{directory}'"))
    with pytest.raises(UserError, match=r"^architecture\.weights=.* was trained on other columns or rows than mine has"):
        run(config, tmp_path / "a" / "b" / "seed=1")


def test_weights_of_a_run_begin_another_one(tmp_path, composed):
    path, directory = tmp_path / "mine.csv", tmp_path / "a" / "b" / "seed=0"
    write_table(path)
    first = run(composed(*of_file(path, "epochs=3")), directory)
    begun = (f"architecture.weights='{directory}'", "optimizer.lr=1e-9", "late_phase.sigma0=0")
    again = run(composed(*of_file(path, *begun)), tmp_path / "c" / "d" / "seed=0")
    assert again["metrics"]["single"]["test_rmse"] == pytest.approx(first["metrics"]["single"]["test_rmse"], rel=1e-5)


def test_suites_of_images_are_refused_and_a_run_is_exported(finished, tmp_path, main: Main):
    directory = finished("lpadapters")
    status, _ = main(f"run='{directory}'", "suite=calibration", script="scripts/evaluate.py")
    assert str(status).startswith("error: suite=calibration ") and str(status).endswith(".") and "\n" not in str(status)
    status, _ = main(str(directory), "--to", str(tmp_path / "hub"), script="scripts/export.py")
    assert status == 0, status
    assert "| test R²   |" in (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
    assert late_phase.export.load.load(tmp_path / "hub").encoding.target == "target"


def test_runs_make_a_deep_ensemble_of_mean_predictions(tmp_path, composed, main: Main):
    folder = tmp_path / "diabetes_mlp_base" / "default"
    for seed in (0, 1):
        run(composed(*tiny("base"), f"seed={seed}"), folder / f"seed={seed}")
    status, _ = main(f"run='{folder}'", script="scripts/evaluate.py")
    assert status == 0, status
    record = json.loads((folder / "seeds=0,1" / "evaluation" / "accuracy.json").read_text())
    kept = [load_file(folder / f"seed={seed}" / "predictions" / "test.safetensors") for seed in (0, 1)]
    mean = np.mean([own["single"][0].numpy() for own in kept], 0)
    expected = root_mean_squared_error(kept[0]["targets"], mean)
    assert record["metrics"]["single"]["test_rmse"] == pytest.approx(expected, rel=1e-6)


MISTAKES = {
    "no target": (
        ["dataset.target=prize"],
        r"^dataset\.target needs a column 'prize', which dataset\.path=.* lacks: it has size, ",
    ),
    "text for a regression": (
        ["dataset.target=colour", "dataset.objective=regression"],
        r"^column 'colour', the target, of dataset\.path=.* has texts such as 'red': choose dataset\.objective=classification\.",
    ),
    "names of rows": (
        ["dataset.ignore=[]"],
        r"^column 'id' of the test part of mine has the category 'id\d+', which no training row has",
    ),
    "an unknown objective": (["dataset.objective=ranking"], r"^dataset\.objective=ranking is unknown: choose one of auto, "),
    "an unknown scaling": (["dataset.scaling=log"], r"^dataset\.scaling=log is unknown: choose one of quantile, standard\."),
    "an unknown answer": (["dataset.unseen=guess"], r"^dataset\.unseen=guess is unknown: choose one of refuse, zeros\."),
    "nothing to train on": (["dataset.test=0.9"], r"^dataset\.validation=0\.16 and dataset\.test=0\.9 leave no rows to train on"),
    "the target ignored": (["dataset.ignore=[price]"], r"^dataset\.ignore names the target price: leave it out there\."),
    "large batches": (["batch_size=500"], r"^batch_size=500 is larger than the training part \(51 rows\): choose a smaller one\."),
    "an image model": (["architecture=lenet"], r"^architecture=lenet with dataset=mine can't work: choose architecture=mlp"),
    "no width": (["architecture.width=0"], r"^architecture\.width=0 is out of range: choose a number of at least 1\."),
    "a huge width": (["architecture.width=10000000"], r"^architecture=mlp, depth=2, width=10000000.* with .* needs about .* GiB"),
    "patience without validation": (
        ["patience=2", "dataset.validation=0"],
        r"^patience=2 needs a validation part to choose an epoch by: set dataset\.validation above 0\.",
    ),
    "no patience": (["patience=0"], r"^patience=0 is out of range: choose a number of at least 1\."),
    "patience without measuring": (
        ["patience=2", "runtime.evaluate_every=2"],
        r"^runtime\.evaluate_every=2 doesn't measure each epoch, which patience=2 needs: set it to 1\.",
    ),
    "own minibatches of nothing": (
        ["late_phase=none", *NONE[1:], "ensemble=batch_ensemble", "ensemble.K=9", "ensemble.minibatches=own"],
        r"^ensemble\.K=9 members can't share out batch_size=7: choose a larger batch_size\.",
    ),
    "no BatchNorm": (["late_phase=batchnorm", "late_phase.head=false"], r"batchnorm\(\) matches no parameter of MLP"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_one_sentence(mistake, tmp_path, composed):
    own, pattern = MISTAKES[mistake]
    path, directory = tmp_path / "mine.csv", tmp_path / "a" / "b" / "seed=0"
    write_table(path)
    choices = [o for o in own if o.partition("=")[0] in ("late_phase", "ensemble", "architecture")]
    keys = [o for o in own if o not in choices]
    base = of_file(path)
    dropped = {choice.partition("=")[0] for choice in choices}
    base = [
        o for o in base if o.partition("=")[0] not in dropped and not ("architecture" in dropped and o.startswith("architecture."))
    ]
    with pytest.raises(UserError, match=pattern) as error:
        run(composed(base[0], *choices, *base[1:], *keys), directory)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
    assert not files_in(directory)


EXPERIMENTS = sorted(path.stem for path in (ROOT / "configs" / "experiment").glob("*_mlp_*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_runs(experiment, tmp_path, composed):
    write_table(tmp_path / "mine.csv", 350)
    own = (f"dataset.path='{tmp_path / 'mine.csv'}'", "dataset.ignore=[id]") if "diamonds" in experiment else ()
    config = composed(f"+experiment={experiment}", "+debug=smoke_table", *own)
    assert (config.epochs, config.optimizer.name, config.architecture.name, config.patience) == (2, "adamw", "mlp", 16)
    record = run(config, tmp_path / experiment / "default" / "seed=0")
    assert set(record["metrics"]) == {"base": {"single"}}.get(experiment.rpartition("_")[2], {"single", "ensemble"})
