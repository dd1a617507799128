"""What a run leaves behind: weights in files, and what predicts with them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from late_phase.averaging.swag import SWAG
from late_phase.evaluation.predictors import Predictor, dropout_layers, mc_dropout, members, predictor_of, swag, swag_weights
from late_phase.layers.batch_ensemble import BatchEnsemble
from late_phase.layers.fold import fold
from late_phase.support.files import write_tensors
from late_phase.training.config import SWAGConfig, TrainConfig
from late_phase.training.run_directory import RunDirectory
from late_phase.training.setup import Setup, has_members, prepare
from late_phase.weights import load, tensors

SWAG_PARTS = ("mean", "squares", "deviations", "statistics")


def export(setup: Setup, files: RunDirectory) -> None:
    """Writes the trained weights, and with averaging those of the average, in the way that :func:`predictors` reads."""
    write_weights(files.path, setup, setup.single_model(), setup.members())
    for path in (files.swag, *(files.swa.iterdir() if files.swa.exists() else ())):
        path.unlink(missing_ok=True)  # of whatever was in this directory before
    if setup.averaging is not None:
        write_weights(files.swa, setup, setup.swa_model(), setup.swa_members())
    if isinstance(setup.averaging, SWAG):
        parts = vars(setup.averaging) | {"statistics": setup.swag_statistics()}
        named = {f"{part}/{name}": value for part in SWAG_PARTS for name, value in parts[part].items()}
        write_tensors(files.swag, named | {"count": torch.tensor(setup.averaging.count)})


def write_weights(folder: Path, setup: Setup, model: nn.Module, values: dict[str, Tensor]) -> None:
    """The plain model and, where there are members, their weights, which go with the model as it was parametrized in training."""
    names = RunDirectory(folder)
    plain = fold(copy.deepcopy(model))
    write_tensors(names.model, plain.state_dict(), metadata=setup.task.encoding.to_json())
    for path in (names.members, names.base):
        path.unlink(missing_ok=True)
    if values:
        write_tensors(names.members, values)
        if tensors(plain).keys() != tensors(model).keys():
            write_tensors(names.base, tensors(model))


def weight_files(files: RunDirectory) -> list[Path]:
    """All files of weights that there are in a run's directory."""
    folders = [RunDirectory(folder) for folder in (files.path, files.swa)]
    paths = [path for names in folders for path in (names.model, names.members, names.base)] + [files.swag]
    return [path for path in paths if path.exists()]


def predictors(
    config: TrainConfig, files: RunDirectory, build: Callable[[], nn.Module], device: torch.device
) -> dict[str, Predictor]:
    """Everything that predicts with the weights in a run's directory, by the name that its metrics have.

    Args:
        build: makes the plain architecture, for the weights to be loaded into.

    Raises:
        RuntimeError: the weights don't fit the architecture.
        OSError, safetensors.SafetensorError: a file is missing or damaged.
    """
    found = read_predictors(config, files.path, build, device)
    if config.averaging.name != "none":
        found |= {rename_swa(name): predictor for name, predictor in read_predictors(config, files.swa, build, device).items()}
    if isinstance(config.averaging, SWAGConfig):
        found["swag"] = read_swag(config, files, build, device)
    return found


def read_predictors(
    config: TrainConfig, folder: Path, build: Callable[[], nn.Module], device: torch.device
) -> dict[str, Predictor]:
    names = RunDirectory(folder)
    plain = build() if config.ensemble.name == "none" else prepare(config, build())
    plain.load_state_dict(load_file(names.model))
    plain = plain.to(device)
    if isinstance(plain, BatchEnsemble):
        return {"ensemble": predictor_of(plain)}
    found = {"single": predictor_of(plain)}
    if has_members(config):
        base = plain
        if names.base.exists():
            base = load(prepare(config, build()), load_file(names.base)).to(device)
        found["ensemble"] = members(base, load_file(names.members, str(device)))
    if dropout_layers(plain):
        found["mc_dropout"] = mc_dropout(plain, config.architecture.mc_samples)
    return found


def rename_swa(name: str) -> str:
    return "swa" if name == "single" else f"swa_{name}"


def read_swag(config: TrainConfig, files: RunDirectory, build: Callable[[], nn.Module], device: torch.device) -> Predictor:
    settings, posterior = config.averaging, SWAG(config.averaging.rank)
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in SWAG_PARTS}
    stored = load_file(files.swag, str(device))
    posterior.count = int(stored.pop("count"))
    for key, value in stored.items():
        part, _, name = key.partition("/")
        parts[part][name] = value
    posterior.mean, posterior.squares, posterior.deviations = (parts[part] for part in SWAG_PARTS[:3])
    statistics = [{name: value[i] for name, value in parts["statistics"].items()} for i in range(settings.samples)]
    model = build().to(device)
    return swag(model, lambda: swag_weights(posterior, settings.samples, settings.scale, config.seed), statistics)
