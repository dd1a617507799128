"""Loads the single model of a finished run in one line."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from late_phase import tasks
from late_phase.command_line.plugins import load_plugins
from late_phase.methods.exported import WeightFiles
from late_phase.runs.config_file import from_yaml
from late_phase.runs.directory import RunDirectory
from late_phase.support.errors import UserError, first_line


def load(run: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """Loads the single model of a finished run, in eval mode. It needs the run's directory, but not its dataset.

    ``model.encoding`` turns raw data into the model's inputs. For images, ``model(model.encoding(pixels))`` gives the logits of
    uint8 pixels ``[examples, channels, height, width]``. For texts it is the vocabulary.

    For tables, ``model.encoding`` takes a NumPy array for each column by name: float64 with nan for missing numbers, and objects
    for categories. A regression's outputs are standardized: multiply them by ``model.encoding.std``, and add
    ``model.encoding.mean``.

    Args:
        run: the run's directory, a folder above one run, or a folder that ``scripts/export.py`` has written.

    Raises:
        UserError: there is not exactly one finished run, its files are damaged, or it has no single model.
    """
    load_plugins()
    files = RunDirectory(finished_run(Path(run).expanduser()))
    config, path = from_yaml(files.config), WeightFiles(files.path).model
    kind = tasks.kind_of(config.dataset)
    try:
        encoding, weights = kind.stored_encoding(path), load_file(path, str(device))
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged ({first_line(error)}): copy the run again, or train it again.") from error
    try:
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        model = kind.rebuilt(config.architecture, encoding, shapes)
        model.load_state_dict(weights)
    except (ValueError, RuntimeError) as error:
        what = f"ensemble={config.ensemble.name}, architecture={config.architecture.name}"
        raise UserError(f"{path} is not the single model of {what}: load it with the code that trained it.") from error
    model.encoding = encoding
    return model.to(device).eval()


def finished_run(place: Path) -> Path:
    """Returns the directory of the only finished run in or below ``place``.

    Raises:
        UserError: there is no such run, or several.
    """
    if RunDirectory(place).read_metrics() is not None:
        return place
    found = [path.parent for path in sorted(place.glob("**/seed=*/metrics.json")) if RunDirectory(path.parent).read_metrics()]
    if len(found) > 1:
        raise UserError(f"{place} has {len(found)} finished runs, such as {found[0]}: give the directory of one.")
    if not found:
        raise UserError(f"{place} has no finished run: give a directory with metrics.json and model.safetensors.")
    return found[0]
