"""What a finished run is measured by: at its end, and again whenever one likes, also on another dataset."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from late_phase.data.images import Images, Normalization
from late_phase.errors import UserError, first_line
from late_phase.evaluation.predict import combine_predictions, read_metrics, write_predictions
from late_phase.evaluation.predictors import Predictor
from late_phase.files import write_json
from late_phase.training.config import OWN_DATASET, DatasetConfig, TrainConfig, config_hash, from_yaml
from late_phase.training.export import predictors
from late_phase.training.run_directory import RunDirectory
from late_phase.training.settings import autocast
from late_phase.training.setup import Setup, build_dataset, build_model


def evaluate(setup: Setup, files: RunDirectory, seconds: float, commit: str | None) -> dict[str, Any]:
    """Writes the predictions of the exported weights and, computed from these, ``metrics.json``, which it returns."""
    splits = {"train": setup.dataset.train, **setup.dataset.held_out()}
    config, device = setup.config, setup.device
    found = predictors(config, files, lambda: build_model(config, setup.dataset), device)
    metrics = measure(config, files.predictions, splits, found, setup.normalization, device)
    for predictor, values in metrics.items():
        for name, value in values.items():
            if not math.isfinite(value):
                raise UserError(f"{name} of the trained model ({predictor}) is {value}: lower optimizer.lr.")
    record = record_of(config, files.path, device, seconds, commit) | {"metrics": metrics}
    write_json(files.metrics, record)
    return record


def evaluate_again(directory: Path, dataset_config: DatasetConfig, device: torch.device) -> dict[str, Any]:
    """Evaluates a finished run, with its own normalization, on its own dataset or the test images of another with as many classes.

    Predictions and ``metrics.json`` go to ``evaluation/<dataset>/`` in the run's directory; the run's own files stay as they are.

    Raises:
        UserError: the directory holds no finished run, or the dataset doesn't fit its model.
    """
    files = RunDirectory(directory)
    finished = files.read_metrics()
    if finished is None:
        raise UserError(f"run={directory} holds no finished run: train it first, or give the directory with its metrics.json.")
    config = from_yaml(files.config)
    own = dataset_config.name == OWN_DATASET
    if own and dataset_config != DatasetConfig(name=OWN_DATASET):
        raise UserError("keys of dataset were given, but the run's own dataset is taken as it was: add dataset=NAME.")
    dataset = build_dataset(config.dataset if own else dataset_config)
    try:
        with safe_open(files.model, "pt") as file:
            normalization = Normalization.from_json(file.metadata()["late_phase"])
        found = predictors(config, files, lambda: build_model(config, dataset), device)
    except (OSError, SafetensorError, TypeError, KeyError) as error:
        raise UserError(f"run={directory} is damaged ({first_line(error)}): train it again in an empty directory.") from error
    except RuntimeError as error:
        raise UserError(
            f"dataset={dataset.name} with {len(dataset.classes)} classes and {dataset.test.pixels.shape[1]} channels doesn't fit "
            f"the model in {directory}: choose one like {config.dataset.name}."
        ) from error
    dataset = dataset.to(device)
    splits = dataset.held_out() | ({"train": dataset.train} if own else {})
    folder = directory / "evaluation" / dataset.name
    metrics = measure(config, folder, splits, found, normalization, device)
    record = record_of(config, directory, device, finished["seconds"], git_commit())
    record |= {"dataset": dataset.name, "metrics": metrics}
    write_json(folder / "metrics.json", record)
    return record


def evaluate_together(
    folder: Path, seeds: Sequence[int] | None, dataset_config: DatasetConfig, device: torch.device
) -> dict[str, Any]:
    """Evaluates the finished runs ``folder/seed=<n>`` as a deep ensemble, by the mean of all their predictions.

    What a predictor of the ensemble averages over are the members of that predictor in all of the runs: for ``single`` the runs'
    single models. Predictions and ``metrics.json`` go to ``folder/seeds=<n>,<n>,.../evaluation/<dataset>/``.

    Args:
        seeds: which of the runs; all that there are by default.

    Raises:
        UserError: as :func:`evaluate_again`; there is no such run, or they were not trained on the same data.
    """
    found = sorted(int(path.name[5:]) for path in folder.glob("seed=*") if path.name[5:].isdigit())
    seeds = sorted(set(found if seeds is None else seeds))
    if not seeds or not set(seeds) <= set(found):
        raise UserError(
            f"run={folder} has runs of the seeds {found}, not {seeds or 'any'}: choose a folder of runs, or other seeds."
        )
    paths = [folder / f"seed={seed}" for seed in seeds]
    records = [evaluate_again(path, dataset_config, device) for path in paths]
    dataset = records[0]["dataset"]
    to = folder / f"seeds={','.join(map(str, seeds))}" / "evaluation" / dataset
    try:
        combine_predictions(to, [path / "evaluation" / dataset for path in paths])
    except ValueError as error:
        raise UserError(f"run={folder} has no ensemble of {seeds} ({error}): choose runs that were trained alike.") from error
    record = records[0] | {"seed": seeds, "config_hash": [record["config_hash"] for record in records]}
    record |= {"seconds": round(sum(record["seconds"] for record in records), 3), "metrics": read_metrics(to)}
    write_json(to / "metrics.json", record)
    return record


def measure(
    config: TrainConfig,
    folder: Path,
    splits: dict[str, Images],
    found: dict[str, Predictor],
    normalization: Normalization,
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """Metrics of each predictor, from its predictions, which stay in ``folder``."""
    with autocast(device, config.compute.precision):
        write_predictions(folder, splits, found, normalization, config.seed)
    return read_metrics(folder)


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
