"""Loads trained models from files: of a run, of several runs as a deep ensemble, or from weights of any origin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from late_phase import methods, tasks
from late_phase.architectures import ArchitectureConfig
from late_phase.config.identity import config_hash
from late_phase.config.training import TrainConfig
from late_phase.data import DatasetConfig
from late_phase.methods import deep_ensemble
from late_phase.methods.exported import WeightFiles
from late_phase.runs.config_file import from_yaml
from late_phase.runs.directory import RunDirectory
from late_phase.runs.provenance import code_version, device_name, record_of
from late_phase.support.devices import autocast
from late_phase.support.digests import digest, tensor_digest
from late_phase.support.errors import UserError, first_line
from late_phase.tasks.task import TrainedModels


def models_of_run(config: TrainConfig, files: RunDirectory, device: torch.device, dataset: Any, own: bool = True) -> TrainedModels:
    """Loads a run from the weights that it has exported.

    Args:
        dataset: the data to evaluate on, of the kind that the run was trained on.
        own: whether it is the dataset that the run was trained on.

    Raises:
        UserError: a file is damaged, or the dataset doesn't fit the model.
    """
    kind, chosen = tasks.kind_of(config.dataset), list(methods.build(config).values())
    results, damaged = files.path / "evaluation", (OSError, SafetensorError, TypeError, KeyError, ValueError)
    try:
        encoding = kind.stored_encoding(WeightFiles(files.path).model)
    except damaged as error:
        raise train_again(files, error) from error
    task = kind(dataset, encoding, device)
    try:
        found = methods.predictors_in(files.path, lambda: task.model(config.architecture), device, chosen)
        weights = [path for method in chosen for path in method.files(files.path) if path.exists()]
        made_of = digest(*weights, config_hash(config), config.precision_on(device))
    except damaged as error:
        raise train_again(files, error) from error
    except RuntimeError as error:
        raise task.misfit(files.path, config.dataset.name) from error
    return TrainedModels(
        task=task,
        trained_on=config.dataset.name,
        predictors=found,
        autocast=partial(autocast, device, config.precision_on(device)),
        seed=config.seed,
        digest=made_of,
        results=results,
        predictions=files.predictions if own else results / dataset.name,
    )


def train_again(files: RunDirectory, error: Exception) -> UserError:
    return UserError(f"run={files.path} is damaged ({first_line(error)}): train it again in an empty directory.")


def models_of_runs(
    path: Path, seeds: Sequence[int] | None, other: DatasetConfig | None, device: torch.device
) -> tuple[TrainedModels, dict[str, Any]]:
    """Loads the finished run in ``path``, or the runs in ``path/seed=<n>`` as a deep ensemble, and returns their provenance, too.

    Args:
        seeds: the seeds of the ensemble; by default all that ``path`` has.
        other: the dataset to evaluate on, without a part to train on; by default the runs' own dataset.

    Raises:
        UserError: there is no such run, the runs were not trained on the same data, or the dataset doesn't fit.
    """
    seeds = deep_ensemble.find_seeds(path, seeds)
    runs = [RunDirectory(path)] if seeds is None else [RunDirectory(path / f"seed={seed}") for seed in seeds]
    finished = [read_finished(files) for files in runs]
    configs = [from_yaml(files.config) for files in runs]
    for config in configs:
        deep_ensemble.refuse_others(path, configs[0], config)
    first, own = configs[0], other is None
    if other is not None and other.task != first.dataset.task:
        raise UserError(
            f"dataset={other.name} is not of the kind that {runs[0].path} was trained on: choose data like {first.dataset.name}."
        )
    kind = tasks.kind_of(first.dataset)
    dataset = kind.load(first.dataset) if other is None else kind.load_for_evaluation(other)
    of_each: list[TrainedModels] = []
    for files, config in zip(runs, configs, strict=True):
        of_each.append(models_of_run(config, files, device, dataset, own))
        dataset = of_each[-1].task.dataset  # now on the device, and shared by the other runs
    fingerprint, version = of_each[0].task.fingerprint(), code_version()
    if not own:  # only the data that the runs were trained on must agree
        fingerprint = {key: finished[0].get(key) for key in fingerprint}
    records = []
    for files, config, metrics in zip(runs, configs, finished, strict=True):
        refuse_other_data(files, metrics, fingerprint, first.dataset.name)
        records.append(record_of(config, files.path, device, metrics.get("seconds", 0.0), version))
    if seeds is None:
        return of_each[0].task.own_predictions(of_each[0]), records[0]
    folder = deep_ensemble.folder(path, seeds)
    ensemble = replace(
        of_each[0],
        results=folder / "evaluation",
        predictions=folder / "predictions" if own else folder / "evaluation" / dataset.name,
        predictors=deep_ensemble.together([models.predictors for models in of_each]),
        digest=digest(*(models.digest for models in of_each)),
    )
    provenance = records[0] | {"seed": seeds, "config_hash": [record["config_hash"] for record in records]}
    return ensemble, provenance | {"seconds": round(sum(record["seconds"] for record in records), 3)}


def read_finished(files: RunDirectory) -> dict[str, Any]:
    """Reads the ``metrics.json`` of a finished run.

    Raises:
        UserError: the run isn't finished, or the file is damaged.
    """
    metrics = files.read_metrics()
    if metrics is None:
        raise UserError(f"run={files.path} holds no finished run: train it first, or give the directory with its metrics.json.")
    return metrics


def refuse_other_data(files: RunDirectory, metrics: dict[str, Any], expected: dict[str, Any], name: str) -> None:
    """Refuses a run that was trained on other data of the same name.

    Args:
        metrics: the run's record, which has the fingerprint of its data.
        expected: the fingerprint that it must have.
        name: the name of the dataset.

    Raises:
        UserError: the fingerprints differ.
    """
    for key, value in expected.items():
        if None not in (known := metrics.get(key), value) and known != value:  # the oldest records of images lack it
            kind = key.removesuffix("_sha256")
            own = "dataset=image_folder dataset.root=FOLDER" if kind == "images" else f"dataset={kind}_file dataset.path=FILE"
            raise UserError(
                f"run={files.path} was trained on other data than {name} or another run has ({kind} with sha256 {known}, here "
                f"{value}): choose runs with the same {kind}, or name data to evaluate on with {own}."
            )


def models_of_weights(
    architecture: ArchitectureConfig, dataset: DatasetConfig, to: Path, device: torch.device
) -> tuple[TrainedModels, dict[str, Any]]:
    """Loads weights of any origin, which ``architecture.weights`` names, and returns their provenance, too.

    Args:
        dataset: the dataset to evaluate on.
        to: the folder for results.

    Raises:
        UserError: the weights or the dataset can't be loaded, or they don't fit each other.
    """
    kind, weights = tasks.kind_of(dataset), architecture.weights
    task = kind.for_weights(dataset, Path(weights), device)
    model = task.model(architecture, weights, whole=True).to(device)
    settings = json.dumps(asdict(replace(architecture, weights=None)), sort_keys=True)
    models = TrainedModels(
        task=task,
        trained_on=dataset.name,
        predictors=methods.predictors_of(model, architecture),
        autocast=partial(autocast, device, "fp32"),
        seed=0,
        digest=digest(tensor_digest(model.state_dict().values()), task.encoding.to_json(), settings),
        results=to,
        predictions=to / task.dataset.name,
    )
    provenance = {"weights": weights, "architecture": asdict(architecture), **code_version()}
    return models, provenance | {"device": device_name(device), "torch": torch.__version__}
