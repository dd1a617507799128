"""Methods: what a run does beyond plain training. Each method has a module, which holds all of its code.

This file imports every module of the folder, and each module registers its choices. No other code knows a method by name. Modules
don't import torch at the top, because a command line is checked without it. Functions that need torch import it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from late_phase.config.choices import CHOICES
from late_phase.config.training import TrainConfig
from late_phase.methods.exported import WeightFiles, Weights
from late_phase.methods.interface import ALWAYS, Method

if TYPE_CHECKING:
    import torch
    from torch import nn

    from late_phase.architectures import ArchitectureConfig
    from late_phase.evaluation.predictors import Predictor

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

GROUPS = ("late_phase", "ensemble", "averaging")
"""Config groups whose choices are methods. Results and tables list predictors in this order."""


def build(config: TrainConfig) -> dict[str, Method]:
    """Returns all methods of a run by name: each group's choice under the group's name, and the methods in ``ALWAYS``."""
    chosen = {group: CHOICES[group][getattr(config, group).name].build(config) for group in GROUPS}
    return chosen | {name: method(config) for name, method in ALWAYS.items()}


def predictors_of(model: nn.Module, architecture: ArchitectureConfig) -> dict[str, Predictor]:
    """Returns the predictors of a plain model of any origin, by the name under which their metrics are stored."""
    from late_phase.evaluation.predictors import predictor_of

    found = {"single": predictor_of(model)}
    for method in ALWAYS.values():
        found |= method.predictors_of(model, architecture)
    return found


def predictors_in(
    folder: Path, build: Callable[[], nn.Module], device: torch.device, methods: Collection[Method]
) -> dict[str, Predictor]:
    """Returns the predictors of the weights in a run's directory, by the name under which their metrics are stored.

    Args:
        build: makes the plain architecture into which the weights are loaded.
        methods: the run's methods.

    Raises:
        RuntimeError: the weights don't fit the architecture.
        OSError, safetensors.SafetensorError: a file is missing or damaged.
    """
    from safetensors.torch import load_file

    from late_phase.evaluation.predictors import is_ensemble, predictor_of

    def read(folder: Path, members: bool = True) -> Weights:
        model, files = build(), WeightFiles(folder)
        for method in methods:
            model = method.wrap(model)
        model.load_state_dict(load_file(files.model))
        weights = Weights(files, model.to(device), build, device, members)
        weights.predictors["ensemble" if is_ensemble(model) else "single"] = predictor_of(model)
        for method in methods:
            weights.predictors.update(method.predictors_with(weights))
            weights.predictors.update(method.predictors_of(model, method.config.architecture))
        return weights

    found = read(folder).predictors
    for method in methods:
        found |= method.predictors(folder, read)
    return found
