"""Evaluation suites from end to end: by the command, on real runs of the embedded digits."""

from __future__ import annotations

import json
import re
import resource
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import TINY
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from late_phase import data
from late_phase.architectures import build
from late_phase.data import digits
from late_phase.data.corrupted import PAPERS_CORRUPTIONS, SEVERITIES
from late_phase.data.images import Images, Normalization
from late_phase.evaluation import predict
from late_phase.evaluation.predictors import predictor_of
from late_phase.runs.directory import RunDirectory
from late_phase.runs.models import models_of_runs
from late_phase.suites import images as suites
from late_phase.suites.config import EvaluateConfig
from late_phase.tasks.images import ImageTask
from late_phase.training.loop import run

EVALUATE = "scripts/evaluate.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, composed):
    """Two seeds of a run with late-phase weights, trained a little."""
    folder = tmp_path_factory.mktemp("trained") / "digits" / "default"
    for seed in (0, 1):
        run(composed(*TINY, "dataset.test_subset=null", f"seed={seed}"), folder / f"seed={seed}")
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of these, so that each test begins without evaluations."""
    return Path(shutil.copytree(trained, tmp_path / "outputs" / "digits" / "default"))


def results(run_folder: Path, suite: str) -> dict:
    return json.loads((run_folder / "evaluation" / f"{suite}.json").read_text())["metrics"]


def state_of(run_folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run_folder)): path.read_bytes() for path in run_folder.iterdir() if path.is_file()}


def log_probs(run_folder: Path, images: Images) -> torch.Tensor:
    """Of the single model, by other means than the suites'."""
    model = build("lenet", 1, 10).eval()
    model.load_state_dict(load_file(run_folder / "model.safetensors"))
    pixels = images.pixels.double() / 255
    models, _ = models_of_runs(run_folder, None, None, torch.device("cpu"))
    mean, std = models.task.encoding.mean[0], models.task.encoding.std[0]
    with torch.no_grad():
        return model(((pixels - mean) / std).float()).log_softmax(-1)


def test_all_suites_run_by_one_command_and_leave_the_run_as_it_is(main, folder):
    before = state_of(folder / "seed=0")
    status, output = main(f"run={folder / 'seed=0'}", "suite=all", "flatness.draws=3", script=EVALUATE)
    assert status in (0, None), status
    for suite in ("accuracy", "calibration", "ood", "corruption", "flatness"):
        assert f"{suite}, digits" in output
    assert state_of(folder / "seed=0") == before
    assert {"single", "ensemble"} == set(results(folder / "seed=0", "ood"))
    record = json.loads((folder / "seed=0/evaluation/ood.json").read_text())
    assert record["seed"] == 0 and record["dataset"] == "digits" and record["images"] == 360 and record["experiment"] == "digits"


def test_auroc_is_that_of_entropies_computed_by_other_means(main, folder):
    assert main(f"run={folder / 'seed=0'}", "suite=ood", script=EVALUATE)[0] in (0, None)
    row = results(folder / "seed=0", "ood")["single"]
    inside = log_probs(folder / "seed=0", digits.load().test)
    found = []
    for name in data.OOD["digits"]:
        outside = log_probs(folder / "seed=0", data.load(name).test)
        entropies = [-(x.double().exp() * x.double()).sum(-1) for x in (inside, outside)]
        labels = np.concatenate([np.zeros(len(inside)), np.ones(len(outside))])
        expected = roc_auc_score(labels, torch.cat(entropies).numpy())
        assert row[f"auroc_{name}"] == pytest.approx(expected, abs=1e-4)
        found.append(row[f"auroc_{name}"])
    assert row["auroc"] == pytest.approx(np.mean(found))


def test_the_corruption_error_is_that_of_each_slice(main, folder):
    assert main(f"run={folder / 'seed=0'}", "suite=corruption", script=EVALUATE)[0] in (0, None)
    row, corrupted = results(folder / "seed=0", "corruption")["single"], data.load_corrupted("digits_c")
    assert len(corrupted.corruptions) == 6 and set(row) == {"mce", *corrupted.corruptions}
    means = []
    for name in corrupted.corruptions:
        errors = []
        for severity in corrupted.severities:
            images = corrupted.images(name, severity)
            errors.append((log_probs(folder / "seed=0", images).argmax(1) != images.labels).double().mean().item())
        means.append(np.mean(errors))
        assert row[name] == pytest.approx(means[-1], abs=1 / 360)
    assert row["mce"] == pytest.approx(np.mean(means), abs=1 / 360)


def test_a_second_call_predicts_nothing_and_finds_the_same(main, folder, monkeypatch):
    command = (f"run={folder / 'seed=0'}", "suite=all", "flatness.draws=2")
    assert main(*command, script=EVALUATE)[0] in (0, None)
    first = {path.name: path.read_bytes() for path in (folder / "seed=0" / "evaluation").rglob("*.json")}
    with monkeypatch.context() as patch:
        for owner, name in ((predict, "log_probs"), (suites.flat, "loss_changes")):
            patch.setattr(owner, name, lambda *arguments: pytest.fail("computed again"))
        assert main(*command, script=EVALUATE)[0] in (0, None)
    assert {path.name: path.read_bytes() for path in (folder / "seed=0" / "evaluation").rglob("*.json")} == first
    # Not by the files' names or dates: other weights are predicted with anew.
    state = load_file(folder / "seed=0" / "model.safetensors")
    state["head.bias"] += torch.arange(10.0)
    import safetensors

    with safetensors.safe_open(folder / "seed=0" / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file(state, folder / "seed=0" / "model.safetensors", metadata)
    assert main(*command, script=EVALUATE)[0] in (0, None)
    changed = {path.name: path.read_bytes() for path in (folder / "seed=0" / "evaluation").rglob("*.json")}
    assert all(changed[name] != content for name, content in first.items())


def test_the_runs_own_predictions_are_taken_as_they_are(main, folder, monkeypatch):
    monkeypatch.setattr(predict, "log_probs", lambda *arguments: pytest.fail("predicted again"))
    assert main(f"run={folder / 'seed=1'}", script=EVALUATE)[0] in (0, None)
    metrics = json.loads((folder / "seed=1/evaluation/accuracy.json").read_text())["metrics"]
    assert metrics == json.loads((folder / "seed=1/metrics.json").read_text())["metrics"]


def test_several_runs_are_evaluated_as_one_ensemble(main, folder):
    status, output = main(f"run={folder}", "suite=all", script=EVALUATE)
    assert status in (0, None) and "suite=flatness is skipped" in output
    together = folder / "seeds=0,1" / "evaluation"
    found = load_file(folder / "seeds=0,1" / "predictions" / "test.safetensors")
    assert found["single"].shape == (2, 360, 10) and found["ensemble"].shape == (6, 360, 10)
    row = json.loads((together / "calibration.json").read_text())["metrics"]["single"]
    mean = found["single"].double().exp().mean(0)
    one_hot = torch.nn.functional.one_hot(found["labels"], 10)
    assert row["brier"] == pytest.approx(((mean - one_hot) ** 2).sum(1).mean().item(), rel=1e-5)
    differ = (found["single"][0].argmax(1) != found["single"][1].argmax(1)).double().mean().item()
    assert row["disagreement"] == pytest.approx(differ)


def test_one_run_as_an_ensemble_has_what_the_run_has(main, folder):
    for arguments in ([f"run={folder / 'seed=0'}"], [f"run={folder}", "seeds=[0]"]):
        assert main(*arguments, "suite=flatness", "flatness.draws=2", script=EVALUATE)[0] in (0, None)
    assert results(folder / "seeds=0", "flatness") == results(folder / "seed=0", "flatness")


def test_weights_of_any_origin_are_evaluated(main, folder, tmp_path):
    """As the run does, whose weights they are."""
    torch.save(load_file(folder / "seed=0" / "model.safetensors"), tmp_path / "mine.pt")
    command = ["architecture=lenet", "architecture.weights=mine.pt", "dataset=digits", "to=mine", "suite=all"]
    # The run's own normalization is that of its subset.
    models, _ = models_of_runs(folder / "seed=0", None, None, torch.device("cpu"))
    command += [f"dataset.mean=[{models.task.encoding.mean[0]}]", f"dataset.std=[{models.task.encoding.std[0]}]"]
    assert main(*command, "flatness.draws=2", script=EVALUATE)[0] in (0, None)
    assert main(f"run={folder / 'seed=0'}", "suite=all", "flatness.draws=2", script=EVALUATE)[0] in (0, None)
    for suite in ("ood", "corruption"):
        mine = json.loads((tmp_path / "mine" / f"{suite}.json").read_text())
        assert mine["metrics"]["single"] == results(folder / "seed=0", suite)["single"]
        assert mine["weights"] == "mine.pt"


def test_weights_for_other_classes_are_not_evaluated_with_a_fresh_last_layer(main, folder, tmp_path):
    """It would guess: about a tenth of the digits would be right."""
    state = load_file(folder / "seed=0" / "model.safetensors")
    state |= {key: state[key][:7].clone() for key in ("head.weight", "head.bias")}
    torch.save(state, tmp_path / "seven.pt")
    status, _ = main("architecture=lenet", "architecture.weights=seven.pt", "dataset=digits", "to=y", script=EVALUATE)
    assert re.search(r"seven\.pt doesn't fit architecture=lenet .* head\.\w+ \[7", str(status))
    assert not (tmp_path / "y").exists()


MISTAKES = {
    "nothing to evaluate": ([], "exactly one model must be named: give run=DIRECTORY"),
    "two things": (["run=x", "architecture=lenet"], "exactly one model must be named"),
    "an unknown suite": (["run=x", "suite=everything"], "suite=everything is unknown: choose one of accuracy, calibration, ood"),
    "no run": (["run=x"], "run=x holds no finished run"),
    "a place for a run": (["run=x", "to=y"], "to=y is only for given weights: leave it out"),
    "seeds of given weights": (["architecture=lenet", "seeds=[1]"], r"seeds=\[1\] are only for runs"),
    "a model of no classes": (
        ["architecture=lenet", "architecture.weights=mine.pt", "dataset=noise", "to=y"],
        "dataset=noise has no labelled training images: choose the dataset that the weights were trained on",
    ),
    "no weights": (["architecture=lenet", "dataset=digits", "to=y"], r"architecture\.weights is not set"),
    "no place": (["architecture=lenet", "architecture.weights=mine.pt", "dataset=digits"], "to is not set: give to=FOLDER"),
    "no dataset": (["architecture=lenet", "architecture.weights=mine.pt", "to=y"], "dataset is not chosen: add dataset=NAME"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(main, tmp_path, mistake):
    arguments, sentence = MISTAKES[mistake]
    status, _ = main(*arguments, script=EVALUATE)
    assert isinstance(status, str) and status.startswith("error: ") and "\n" not in status
    assert re.search(sentence, status), status
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["dataset=noise"], r"dataset=noise has no labels to compare with: choose suite=ood with ood=\[noise\]"),
        (["suite=ood", "ood=[digits]"], r"ood=\['digits'\] must name only datasets other than dataset=digits"),
        (["suite=flatness", "flatness.sigmas=[]"], r"flatness\.sigmas=\[\] and .* are out of range"),
        (["suite=ood", "ood=[mnist]"], r"ood=mnist is unknown: choose from cifar10, "),
        (["suite=ood", "dataset=digits"], "is for the run's own dataset"),
        (["suite=flatness", "flatness.draws=1"], r"flatness\.draws=1 are out of range"),
        (["dataset.test_subset=3"], "add dataset=NAME"),
    ],
)
def test_what_a_run_can_not_be_evaluated_by_is_one_sentence(main, folder, arguments, sentence):
    before = state_of(folder / "seed=0")
    status, _ = main(f"run={folder / 'seed=0'}", *arguments, script=EVALUATE)
    assert isinstance(status, str) and re.search(sentence, status), status
    assert state_of(folder / "seed=0") == before


def test_chunks_make_no_difference(folder, monkeypatch):
    models, _ = models_of_runs(folder / "seed=0", None, None, torch.device("cpu"))
    whole = predict.predict(models.predictors["ensemble"], {"test": models.task.dataset.test}, models.task.encoding)["test"]
    monkeypatch.setattr(predict, "EVALUATION_BATCH_SIZE", 7)
    parts = predict.predict(models.predictors["ensemble"], {"test": models.task.dataset.test}, models.task.encoding)["test"]
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_slices_cost_no_more_than_their_predictions(folder):
    """Each slice is predicted once by each model, and nothing else is."""
    models, _ = models_of_runs(folder / "seed=0", None, None, torch.device("cpu"))
    calls = []

    def counted(name: str, predictor):
        def models():
            for model in predictor():
                calls.append(name)
                yield model

        return models

    watched = replace(models, predictors={name: counted(name, p) for name, p in models.predictors.items()})
    suites.corruption(watched, EvaluateConfig(root="unused"))
    assert {name: calls.count(name) for name in set(calls)} == {"single": 30, "ensemble": 90}
    assert RunDirectory(folder / "seed=0").read_metrics() is not None


@pytest.mark.slow
def test_full_size_slices_cost_as_much_as_plain_passes_and_little_memory(folder, tmp_path):
    """CIFAR-10-C's size and layout, made up; the smallest network, so that reading weighs the most.

    A slice, read and evaluated, against the same images in memory: at most 1.1 times the time. Memory grows by less than 2 GB in
    all of the 75 slices.
    """
    source = tmp_path / "CIFAR-10-C"
    source.mkdir()
    np.save(source / "labels.npy", (np.arange(50_000) % 10).astype(np.uint8))
    for name in PAPERS_CORRUPTIONS:
        pixels = np.lib.format.open_memmap(source / f"{name}.npy", "w+", np.uint8, (50_000, 32, 32, 3))
        pixels[::1000] = np.arange(32, dtype=np.uint8)[:, None]
        del pixels
    corrupted = data.load_corrupted("cifar10_c", root=str(tmp_path))
    models, _ = models_of_runs(folder / "seed=0", None, None, torch.device("cpu"))
    torch.manual_seed(0)
    model = build("lenet", 3, 10)
    task = ImageTask(models.task.dataset, Normalization((0.5,) * 3, (0.2,) * 3), torch.device("cpu"))
    models = replace(models, task=task, predictors={"single": predictor_of(model)})
    in_memory = corrupted.images("fog", 1)
    suites.slice_errors(models, in_memory)
    ratios, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in PAPERS_CORRUPTIONS:
        for severity in SEVERITIES:
            times = [time.perf_counter()]
            suites.slice_errors(models, corrupted.images(name, severity))
            times.append(time.perf_counter())
            suites.slice_errors(models, in_memory)
            times.append(time.perf_counter())
            ratios.append((times[1] - times[0]) / (times[2] - times[1]))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20  # GiB, on Linux
    print(f"slice over plain pass: median {np.median(ratios):.3f} of {len(ratios)} pairs; memory grew by {grown:.2f} GiB")
    assert np.median(ratios) < 1.1 and grown < 2


def test_predictions_of_the_end_of_training_stay_when_weights_are_changed(main, folder):
    """What metrics.json was computed from is not replaced by what other weights predict."""
    one, other = folder / "seed=0", folder / "seed=1"
    before = {path.name: path.read_bytes() for path in (one / "predictions").iterdir()}
    (one / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    assert main(f"run={one}", "suite=calibration", script=EVALUATE)[0] in (0, None)
    assert {path.name: path.read_bytes() for path in (one / "predictions").iterdir()} == before
    found, expected = load_file(one / "evaluation/digits/test.safetensors"), load_file(other / "predictions/test.safetensors")
    assert torch.equal(found["single"], expected["single"])


def test_given_weights_are_evaluated_as_what_the_architecture_makes_of_them(main, folder, tmp_path):
    """Its keys are part of the content, and a run's weights bring their normalization."""
    command = ["architecture=lenet", f"architecture.weights='{folder / 'seed=0'}'", "dataset=digits", "to=mine"]
    assert main(*command, script=EVALUATE)[0] in (0, None)
    mine = json.loads((tmp_path / "mine" / "accuracy.json").read_text())["metrics"]["single"]
    own = json.loads((folder / "seed=0" / "metrics.json").read_text())["metrics"]["single"]
    assert mine["test_nll"] == own["test_nll"] and mine["test_accuracy"] == own["test_accuracy"]
    found = []
    for dropout in (0.1, 0.9):
        assert main(*command, f"architecture.dropout={dropout}", script=EVALUATE)[0] in (0, None)
        found.append(json.loads((tmp_path / "mine" / "accuracy.json").read_text())["metrics"]["mc_dropout"]["test_nll"])
    assert found[0] != found[1]


def test_runs_of_other_images_are_no_ensemble(main, tmp_path, composed):
    folder = tmp_path / "outputs" / "digits" / "default"
    for seed in (0, 1):
        run(composed(*TINY, "epochs=2", f"seed={seed}", f"dataset.split_seed={seed}"), folder / f"seed={seed}")
    status, _ = main(f"run={folder}", script=EVALUATE)
    assert re.search(r"has runs that differ \(dataset\.split_seed: 0 -> 1\): choose seeds that were trained alike", str(status))


def test_a_folder_named_like_a_dataset_is_not_taken_for_it(main, tmp_path, composed):
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / "digits" / split / name).mkdir(parents=True)
            for i in range(8):
                Image.effect_noise((32, 32), 60).save(tmp_path / "digits" / split / name / f"{i}.png")
    directory = tmp_path / "outputs" / "a" / "default" / "seed=0"
    small = ("dataset=image_folder", f"dataset.root='{tmp_path / 'digits'}'", "epochs=2", "batch_size=8", "late_phase.T0=1")
    run(composed(*small, "late_phase.K=2"), directory)
    status, output = main(f"run={directory}", "suite=all", "flatness.draws=2", script=EVALUATE)
    assert status in (0, None)
    assert "suite=corruption is skipped: dataset=image_folder has no corrupted counterpart" in output
    assert "suite=ood is skipped: ood=[] must name only datasets other than dataset=image_folder" in output


def test_a_damaged_cache_is_made_anew(main, folder):
    assert main(f"run={folder / 'seed=0'}", "suite=flatness", "flatness.draws=2", script=EVALUATE)[0] in (0, None)
    first = results(folder / "seed=0", "flatness")
    (folder / "seed=0/evaluation/digits/flatness.json").write_text("{")
    assert main(f"run={folder / 'seed=0'}", "suite=flatness", "flatness.draws=2", script=EVALUATE)[0] in (0, None)
    assert results(folder / "seed=0", "flatness") == first


def test_the_end_of_training_has_its_place_whatever_was_there(composed, tmp_path, trained):
    directory = tmp_path / "digits" / "default" / "seed=0"
    shutil.copytree(trained / "seed=1" / "predictions", directory / "predictions")
    run(composed(*TINY, "dataset.test_subset=null", "seed=0"), directory)
    found, expected = (load_file(path / "predictions/test.safetensors") for path in (directory, trained / "seed=0"))
    assert torch.equal(found["single"], expected["single"]) and not (directory / "evaluation").exists()
