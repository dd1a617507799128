"""What a finished run is measured by: at its end, and again whenever one likes, also on another dataset."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from late_phase.data.images import Images, Normalization
from late_phase.errors import UserError, first_line
from late_phase.evaluation.predict import ensemble_predictor, read_metrics, single_predictor, write_predictions
from late_phase.files import write_json, write_tensors
from late_phase.training.config import OWN_DATASET, DatasetConfig, TrainConfig, config_hash, from_yaml
from late_phase.training.run_directory import RunDirectory
from late_phase.training.settings import autocast
from late_phase.training.setup import Setup, build_dataset, build_model


def evaluate(setup: Setup, files: RunDirectory, seconds: float, commit: str | None) -> dict[str, Any]:
    """Writes the single model, the members, their predictions, and, computed from these, ``metrics.json``, which it returns."""
    single = setup.single_model()
    write_tensors(files.model, single.state_dict(), metadata=setup.normalization.to_json())
    if setup.late.members:
        write_tensors(files.members, setup.late.members)
    splits = {"train": setup.dataset.train, **setup.dataset.held_out()}
    with setup.autocast():
        metrics = measure(files.predictions, splits, single, setup.late.members, setup.normalization)
    for predictor, values in metrics.items():
        for name, value in values.items():
            if not math.isfinite(value):
                raise UserError(f"{name} of the trained model ({predictor}) is {value}: lower optimizer.lr.")
    record = record_of(setup.config, files.path, setup.device, seconds, commit) | {"metrics": metrics}
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
        state = load_file(files.model)
        with safe_open(files.model, "pt") as file:
            normalization = Normalization.from_json(file.metadata()["late_phase"])
        members = load_file(files.members, str(device)) if "ensemble" in finished["metrics"] else None
    except (OSError, SafetensorError, TypeError, KeyError) as error:
        raise UserError(f"run={directory} is damaged ({first_line(error)}): train it again in an empty directory.") from error
    single = build_model(config, dataset)
    try:
        single.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"dataset={dataset.name} with {len(dataset.classes)} classes and {dataset.test.pixels.shape[1]} channels doesn't fit "
            f"the model in {directory}: choose one like {config.dataset.name}."
        ) from error
    dataset, single = dataset.to(device), single.to(device)
    splits = dataset.held_out() | ({"train": dataset.train} if own else {})
    folder = directory / "evaluation" / dataset.name
    with autocast(device, config.compute.precision):
        metrics = measure(folder, splits, single, members, normalization)
    record = record_of(config, directory, device, finished["seconds"], git_commit())
    record |= {"dataset": dataset.name, "metrics": metrics}
    write_json(folder / "metrics.json", record)
    return record


def measure(
    folder: Path, splits: dict[str, Images], single: nn.Module, members: dict[str, Tensor] | None, normalization: Normalization
) -> dict[str, dict[str, float]]:
    """Metrics of the single model, and of the members where there are some, from their predictions, which stay in ``folder``."""
    predictors = {"single": single_predictor(single, normalization)}
    if members:
        predictors["ensemble"] = ensemble_predictor(single, members, normalization)
    write_predictions(folder, splits, predictors)
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
