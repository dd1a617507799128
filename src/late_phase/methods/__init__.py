"""Methods: what a run does beyond plain training. A module each, which holds all that is special about it.

Every module of this folder is imported here, and registers its choices. So nothing else knows a method by its name. No module
imports torch at its beginning, because a command line is checked without it: functions that need torch import it.
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
"""Groups of the config whose choices are methods. Their order is that of what predicts, in results and tables."""


def build(config: TrainConfig) -> dict[str, Method]:
    """All methods of a run: the choice of each group by the group's name, and those that come with other keys."""
    chosen = {group: CHOICES[group][getattr(config, group).name].build(config) for group in GROUPS}
    return chosen | {name: method(config) for name, method in ALWAYS.items()}


def predictors_of(model: nn.Module, architecture: ArchitectureConfig) -> dict[str, Predictor]:
    """All that predicts with a plain model of any origin, by the name that its metrics have."""
    from late_phase.evaluation.predictors import predictor_of

    found = {"single": predictor_of(model)}
    for method in ALWAYS.values():
        found |= method.predictors_of(model, architecture)
    return found


def predictors_in(
    folder: Path, build: Callable[[], nn.Module], device: torch.device, methods: Collection[Method]
) -> dict[str, Predictor]:
    """All that predicts with the weights in a run's directory, by the name that its metrics have.

    Args:
        build: makes the plain architecture, for the weights to be loaded into.
        methods: those of the run.

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
