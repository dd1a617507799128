"""The interface of methods: all that a method can do in a run. Training, export and evaluation use methods only through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from late_phase.architectures import ArchitectureConfig
    from late_phase.config.training import TrainConfig
    from late_phase.evaluation.predictors import Predictor
    from late_phase.method import LatePhase
    from late_phase.methods.exported import Weights
    from late_phase.selection import Selection


@dataclass(frozen=True)
class Trained:
    """The parts of a run that methods can use.

    Attributes:
        late: the model and its optimizer. The live model is the current member.
        spare_batches: starts a pass over minibatches of an epoch that training doesn't reach, for estimating running statistics.
        autocast: makes the context manager for forward passes.
    """

    late: LatePhase
    spare_batches: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    autocast: Callable[[], AbstractContextManager]


class Method:
    """A method of a run. Its functions are listed in the order of their calls. This class does nothing; methods override functions.

    Args:
        config: the run's config, already checked.
    """

    all: ClassVar[list[type[Method]]] = []
    """All subclasses, which are all methods, those of plug-ins included."""

    def __init_subclass__(cls) -> None:
        Method.all.append(cls)

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    # Before training.

    @property
    def acts_on_steps(self) -> bool:
        """Whether :meth:`after_step` does something."""
        return type(self).after_step is not Method.after_step

    def multiples(self) -> dict[str, int]:
        """Returns config key -> value for all keys whose value multiplies the activations of a minibatch."""
        return {}

    def parametrize(self, model: nn.Module) -> None:
        """Gives weights of the plain model another parametrization, in place. The export folds it back.

        Raises:
            ValueError: the method can't be used with the model.
        """

    def wrap(self, model: nn.Module) -> nn.Module:
        """Returns the model, possibly wrapped in another one, which is then trained, exported and evaluated.

        Raises:
            ValueError: the method can't be used with the model.
            UserError: the memory is too small.
        """
        return model

    def parameter_options(self) -> list[tuple[Selection, dict[str, float]]]:
        """Returns selections of parameters, each with the optimizer options that replace the run's for them."""
        return []

    def optimizer(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Returns the optimizer, possibly wrapped in another one.

        Raises:
            ValueError: the method can't be used with the model.
        """
        return optimizer

    def check(self, late: LatePhase, minibatches: int) -> None:
        """Refuses a run that can't be trained.

        Args:
            minibatches: number of minibatches in an epoch.

        Raises:
            UserError: the message names the key, the value and the cure.
        """

    # In training.

    def before_epoch(self, trained: Trained, epoch: int) -> None:
        """Runs before the first minibatch of ``epoch``, counted from 0. It runs again if the run resumes within that epoch."""

    def after_step(self, trained: Trained, epoch: int) -> None:
        """Runs after each step of ``epoch``, counted from 0. A step takes one minibatch."""

    def after_epoch(self, trained: Trained, epoch: int) -> None:
        """Runs after the last minibatch of ``epoch``, counted from 0."""

    def measured(self, trained: Trained, epoch: int) -> Mapping[str, nn.Module | None]:
        """Returns the models to measure after ``epoch``, counted from 1: prefix of columns in ``history.csv`` -> model.

        The prefixes must be the same after each epoch. None stands for a model that is not measured now.
        """
        return {}

    def state_dict(self) -> dict[str, Any] | None:
        """Returns what a checkpoint must hold for the method, or None for nothing."""
        return None

    def load_state_dict(self, state_dict: Mapping[str, Any], device: torch.device) -> None:
        """Restores :meth:`state_dict`."""

    # Afterwards.

    def export(self, trained: Trained, folder: Path, encoding: str) -> None:
        """Writes weights, as ``WeightFiles``, to the method's own folder in the run's directory.

        Args:
            folder: the run's directory.
            encoding: metadata for each model's file: how raw data becomes the model's inputs.
        """

    @staticmethod
    def files(folder: Path) -> list[Path]:
        """Returns all paths to which :meth:`export` may write."""
        return []

    @staticmethod
    def predictors_of(model: nn.Module, architecture: ArchitectureConfig) -> dict[str, Predictor]:
        """Returns the method's predictors for any plain model of the architecture, by the name under which metrics are stored."""
        return {}

    def predictors_with(self, weights: Weights) -> dict[str, Predictor]:
        """Returns the method's further predictors for the weight files in a folder, such as the members' ensemble."""
        return {}

    def predictors(self, folder: Path, read: Callable[..., Weights]) -> dict[str, Predictor]:
        """Returns the predictors for the method's own files in a run's directory.

        Args:
            read: ``read(folder)`` reads weights from a folder in the same way as the run's own. If the folder has a plain model and
                no members, call ``read(folder, members=False)``. The predictor is then called ``single``, or ``ensemble`` if
                another method has made the model an ensemble. An averaging can refuse such a model by ``of_an_ensemble``.

        Raises:
            OSError, safetensors.SafetensorError: a file is missing or damaged.
        """
        return {}


ALWAYS: dict[str, type[Method]] = {}
"""Methods that every run has. They have no config group; their keys are in other groups."""


def due(epoch: int, every: int) -> bool:
    """Returns whether an action is due after ``epoch`` epochs. It is due once every ``every`` epochs, or never if that is 0."""
    return every > 0 and epoch % every == 0
