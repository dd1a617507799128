"""What a model is measured by: a run at its end, and a run, several runs or given weights whenever one likes."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from late_phase import data
from late_phase.data.images import Dataset, Normalization
from late_phase.digests import digest, tensor_digest
from late_phase.errors import UserError, first_line
from late_phase.evaluation import suites
from late_phase.evaluation.predictors import dropout_layers, mc_dropout, predictor_of, several
from late_phase.evaluation.suites import Subject
from late_phase.files import write_json
from late_phase.training.config import (
    OWN,
    SCHEMAS,
    DatasetConfig,
    EvaluateConfig,
    TrainConfig,
    config_hash,
    differences,
    from_yaml,
    identity,
)
from late_phase.training.export import predictors, weight_files
from late_phase.training.run_directory import RunDirectory
from late_phase.training.settings import autocast
from late_phase.training.setup import Setup, build_dataset, build_model, build_normalization

SUITES = ("accuracy", "calibration", "ood", "corruption", "flatness")


def evaluate(setup: Setup, files: RunDirectory, seconds: float, commit: str | None) -> dict[str, Any]:
    """Writes the predictions of the exported weights and, computed from these, ``metrics.json``, which it returns."""
    subject = subject_of_run(setup.config, files, setup.dataset, setup.device)
    metrics = suites.measure(subject)
    for predictor, values in metrics.items():
        for name, value in values.items():
            if not math.isfinite(value):
                raise UserError(f"{name} of the trained model ({predictor}) is {value}: lower optimizer.lr.")
    record = record_of(setup.config, files.path, setup.device, seconds, commit) | {"metrics": metrics}
    write_json(files.metrics, record)
    return record


def evaluate_suites(config: EvaluateConfig, device: torch.device) -> dict[str, dict[str, Any]]:
    """Evaluates what the config names: results by suite, each also written to ``<folder>/<suite>.json``, with where it comes from;
    on another dataset than a run's own, to ``<folder>/<dataset>/<suite>.json``.

    The folder is ``evaluation/`` in the run's directory, or ``seeds=<n>,.../evaluation/`` beside the runs of a deep ensemble, or
    ``to``. A run's own files stay as they are.

    Raises:
        UserError: there is no such run, weights, suite or dataset, or they don't go together.
    """
    if config.suite not in (*SUITES, "all"):
        raise UserError(f"suite={config.suite} is unknown: choose one of {', '.join(SUITES)}, all.")
    if (config.run is None) == (config.architecture.name == OWN):
        raise UserError("one model is to be named: give run=DIRECTORY, or architecture=NAME with architecture.weights=FILE.")
    if config.run is None:
        subject, head = subject_of_weights(config, device)
    else:
        other = None
        if config.dataset.name != OWN:
            other = replace(build_dataset(config.dataset), train=None)
            if not other.classes:
                raise UserError(f"dataset={other.name} has no labels to be right about: choose suite=ood with ood=[{other.name}].")
            if config.suite not in ("accuracy", "calibration"):
                raise UserError(
                    f"suite={config.suite} is for the run's own dataset: leave out dataset={other.name}, or choose suite=accuracy."
                )
        elif config.dataset != DatasetConfig(name=OWN):
            raise UserError("keys of dataset were given, but the run's own dataset is taken as it was: add dataset=NAME.")
        subject, head = subject_of_runs(Path(config.run), config.seeds, other, device)
    results = {}
    for suite in SUITES if config.suite == "all" else (config.suite,):
        try:
            numbers = run_suite(suite, subject, config)
        except UserError as error:
            if config.suite != "all":
                raise
            print(f"without {suite}: {error}")
            continue
        dataset = subject.dataset
        results[suite] = head | {"dataset": dataset.name, "test_images": len(dataset.test), "suite": suite, "metrics": numbers}
        write_json((subject.folder if dataset.train is not None else subject.own) / f"{suite}.json", results[suite])
    return results


def run_suite(suite: str, subject: Subject, config: EvaluateConfig) -> dict[str, Any]:
    """Numbers of one suite.

    Raises:
        UserError: it isn't to be had for the subject.
    """
    own = subject.dataset.name
    if suite == "accuracy":
        return suites.measure(subject)
    if suite == "calibration":
        return suites.calibration(subject)
    if suite == "ood":
        names = data.OOD.get(own, ()) if config.ood is None else config.ood
        if not names:
            raise UserError(f"dataset={own} has no out-of-distribution datasets of its own: name some with ood=[NAME,...].")
        return suites.ood(subject, [load_named(name, config.root) for name in names])
    if suite == "corruption":
        if own not in data.CORRUPTED_OF:
            raise UserError(f"dataset={own} has no corrupted counterpart: choose another suite.")
        downloaded = {} if own == "digits" else {"root": config.root}
        return suites.corruption(subject, data.load_corrupted(data.CORRUPTED_OF[own], **downloaded))
    if not all(sigma >= 0 for sigma in config.flatness.sigmas) or config.flatness.draws < 2:
        raise UserError(
            f"flatness.sigmas={config.flatness.sigmas} and flatness.draws={config.flatness.draws} are out of range: "
            "choose numbers of at least 0, and at least 2 draws."
        )
    if "single" not in subject.predictors or subject.runs > 1:
        raise UserError("suite=flatness is about one single model: choose another suite, or one run that has one.")
    return suites.flatness(subject, config.flatness.sigmas, config.flatness.draws)


def load_named(name: str, root: str) -> Dataset:
    """A dataset by its name alone, with the defaults of its kind.

    Raises:
        UserError: there is no such dataset, or it is not to be had by its name alone.
    """
    if name not in data.DATASETS or name == "image_folder":
        known = sorted(set(data.DATASETS) - {"image_folder"})
        raise UserError(f"ood={name} is unknown: choose from {', '.join(known)}.")
    return data.load(name, **({"root": root} if "root" in SCHEMAS["dataset"][name].__dataclass_fields__ else {}))


def subject_of_run(config: TrainConfig, files: RunDirectory, dataset: Dataset, device: torch.device) -> Subject:
    """A run by the weights that it has exported, on its own dataset, or on another one, which has no training images then.

    Raises:
        UserError: a file is damaged, or the dataset doesn't fit the model.
    """
    weights = weight_files(files)
    try:
        with safe_open(files.model, "pt") as file:
            normalization = Normalization.from_json(file.metadata()["late_phase"])
        found = predictors(config, files, lambda: build_model(config.architecture, dataset), device)
        content = digest(*weights, config_hash(config))
    except (OSError, SafetensorError, TypeError, KeyError) as error:
        raise UserError(f"run={files.path} is damaged ({first_line(error)}): train it again in an empty directory.") from error
    except RuntimeError as error:
        raise UserError(
            f"dataset={dataset.name} with {len(dataset.classes)} classes and {dataset.test.shape[0]} channels doesn't fit "
            f"the model in {files.path}: choose one like {config.dataset.name}."
        ) from error
    folder = files.path / "evaluation"
    return Subject(
        folder,
        dataset.to(device),
        files.predictions if dataset.train is not None else folder / dataset.name,
        found,
        normalization,
        partial(autocast, device, config.compute.precision),
        config.seed,
        content,
    )


def subject_of_runs(
    path: Path, seeds: Sequence[int] | None, other: Dataset | None, device: torch.device
) -> tuple[Subject, dict[str, Any]]:
    """A finished run in ``path``, or those in ``path/seed=<n>`` as a deep ensemble; and the head of its results.

    What a predictor of the ensemble averages over are the members of that predictor in all of the runs: for ``single`` the runs'
    single models.

    Args:
        seeds: of the ensemble; all that there are by default.

    Raises:
        UserError: there is no such run, or the runs were not trained on the same data.
    """
    found = sorted(int(folder.name[5:]) for folder in path.glob("seed=*") if folder.name[5:].isdigit())
    together = seeds is not None or bool(found)
    seeds = sorted(set(found if seeds is None else seeds))
    if together and not (seeds and set(seeds) <= set(found)):
        raise UserError(
            f"run={path} has directories seed=<n> for n in {found}, not in {seeds}: choose the folder above them, or others."
        )
    runs = [RunDirectory(path / f"seed={seed}") for seed in seeds] if together else [RunDirectory(path)]
    configs, records, subjects = [], [], []
    for files in runs:
        finished = files.read_metrics()
        if finished is None:
            raise UserError(f"run={files.path} holds no finished run: train it first, or give the directory with its metrics.json.")
        configs.append(from_yaml(files.config))
        records.append(record_of(configs[-1], files.path, device, finished["seconds"], git_commit()))
        if changes := [line for line in differences(identity(configs[0]), identity(configs[-1])) if "seed" not in line]:
            raise UserError(f"run={path} has runs that differ ({'; '.join(changes)}): choose seeds that were trained alike.")
        dataset = subjects[0].dataset if subjects else build_dataset(configs[0].dataset) if other is None else other
        subjects.append(subject_of_run(configs[-1], files, dataset, device))
    if not together:
        return subjects[0], records[0]
    names = [name for name in subjects[0].predictors if all(name in subject.predictors for subject in subjects)]
    folder = path / f"seeds={','.join(map(str, seeds))}"
    ensemble = replace(
        subjects[0],
        folder=folder / "evaluation",
        own=folder / "predictions" if other is None else folder / "evaluation" / other.name,
        predictors={name: several([subject.predictors[name] for subject in subjects]) for name in names},
        content=digest(*(subject.content for subject in subjects)),
        runs=len(runs),
    )
    head = records[0] | {"seed": seeds, "config_hash": [record["config_hash"] for record in records]}
    return ensemble, head | {"seconds": round(sum(record["seconds"] for record in records), 3)}


def subject_of_weights(config: EvaluateConfig, device: torch.device) -> tuple[Subject, dict[str, Any]]:
    """Weights of any origin in an architecture of ours, on a dataset; and the head of its results.

    Raises:
        UserError: the architecture, the weights, the dataset or the folder for results is missing.
    """
    architecture, weights = config.architecture, config.architecture.weights
    for key, value in (("architecture.weights", weights), ("to", config.to)):
        if value is None:
            raise UserError(f"{key} is not set: give {key}={'FILE' if key != 'to' else 'FOLDER, for the results'}.")
    if config.dataset.name == OWN:
        raise UserError("dataset is not chosen: add dataset=NAME, that which the weights were trained on.")
    dataset = build_dataset(config.dataset)
    normalization = build_normalization(config.dataset, dataset)
    model = build_model(architecture, dataset, weights).to(device)
    found = {"single": predictor_of(model)}
    if dropout_layers(model):
        found["mc_dropout"] = mc_dropout(model, architecture.mc_samples)
    folder = Path(config.to)
    content = digest(tensor_digest(model.state_dict().values()), normalization.to_json(), str(architecture.mc_samples))
    subject = Subject(
        folder, dataset.to(device), folder / dataset.name, found, normalization, partial(autocast, device, "fp32"), 0, content
    )
    head = {"weights": weights, "architecture": asdict(architecture), "git_commit": git_commit(), "device": device_name(device)}
    return subject, head | {"torch": torch.__version__}


def record_of(config: TrainConfig, directory: Path, device: torch.device, seconds: float, commit: str | None) -> dict[str, Any]:
    """Where metrics come from: the head of ``metrics.json``. Experiment and variant are those of the directory's name."""
    variant = directory.resolve().parent
    return {
        "experiment": variant.parent.name,
        "variant": variant.name,
        "seed": config.seed,
        "config_hash": config_hash(config),
        "git_commit": commit,
        "device": device_name(device),
        "torch": torch.__version__,
        "seconds": round(seconds, 3),
    }


def git_commit() -> str | None:
    """The commit of this code, with ``-dirty`` if files differ from it; None outside of a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type
