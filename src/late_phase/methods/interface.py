"""What a method can do to a run. The loop, the builder, the export and the evaluation know methods by this only."""

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
    """What methods see of a run.

    Attributes:
        late: the model and its optimizer; the live model is the member at work.
        spare_batches: starts a pass over minibatches of an epoch that training doesn't reach, to estimate running statistics with.
        autocast: makes the context of forward passes.
    """

    late: LatePhase
    spare_batches: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    autocast: Callable[[], AbstractContextManager]


class Method:
    """A method of a run, in the order in which its parts are called. This one is none at all: methods override what they do.

    Args:
        config: the run's, checked.
    """

    all: ClassVar[list[type[Method]]] = []
    """The methods that there are, those of plug-ins too: the classes that are derived from this one."""

    def __init_subclass__(cls) -> None:
        Method.all.append(cls)

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    # Before training.

    def multiples(self) -> dict[str, int]:
        """Key of the config -> its value, of all by whose values the activations of a minibatch are multiplied."""
        return {}

    def parametrize(self, model: nn.Module) -> None:
        """Gives weights of the plain model, in place, another parametrization, which the export folds away.

        Raises:
            ValueError: that can't be done with the model.
        """

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model in another one, which is exported and evaluated as well.

        Raises:
            ValueError: that can't be done with the model.
            UserError: the memory is too small.
        """
        return model

    def parameter_options(self) -> list[tuple[Selection, dict[str, float]]]:
        """Parameters, and the optimizer's options that these have instead of the run's."""
        return []

    def optimizer(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimizer in another one.

        Raises:
            ValueError: that can't be done with the model.
        """
        return optimizer

    def check(self, late: LatePhase, minibatches: int) -> None:
        """Refuses what can't be trained, ``minibatches`` being those of an epoch.

        Raises:
            UserError: naming the key, the value and the cure.
        """

    # In training.

    def before_epoch(self, trained: Trained, epoch: int) -> None:
        """Before the first minibatch of ``epoch``, counted from 0; when a run goes on within an epoch, once more."""

    def after_epoch(self, trained: Trained, epoch: int) -> None:
        """After the last minibatch of ``epoch``, counted from 0."""

    def measured(self, trained: Trained, epoch: int) -> Mapping[str, nn.Module | None]:
        """Models to be measured after so many epochs, counted from 1, by the prefix of their columns in ``history.csv``.

        The prefixes are the same after each epoch; where there is nothing to be measured, there is None.
        """
        return {}

    def state_dict(self) -> dict[str, Any] | None:
        """What a checkpoint has to hold for the method; None for nothing."""
        return None

    def load_state_dict(self, state_dict: Mapping[str, Any], device: torch.device) -> None:
        """Restores :meth:`state_dict`."""

    # Afterwards.

    def export(self, trained: Trained, folder: Path, encoding: str) -> None:
        """Writes weights, as ``WeightFiles``, into a folder of the method's own in the run's directory.

        Args:
            encoding: the metadata that goes with each model: how raw data becomes its inputs.
        """

    @staticmethod
    def files(folder: Path) -> list[Path]:
        """Where :meth:`export` writes, if it writes all that it may."""
        return []

    @staticmethod
    def predictors_of(model: nn.Module, architecture: ArchitectureConfig) -> dict[str, Predictor]:
        """What predicts with any plain model of the architecture, by the name that its metrics have."""
        return {}

    def predictors_with(self, weights: Weights) -> dict[str, Predictor]:
        """What predicts with the files of weights in a folder, besides."""
        return {}

    def predictors(self, folder: Path, read: Callable[..., Weights]) -> dict[str, Predictor]:
        """What predicts with files of the method's own in a run's directory.

        Args:
            read: reads weights from a folder as the run's own are read, ``read(folder)``; where only those of a single model were
                written, ``read(folder, members=False)``. Their predictors are then ``single``, or ``ensemble`` where another method
                made the model an ensemble by itself; an averaging refuses that by its ``of_an_ensemble``.

        Raises:
            OSError, safetensors.SafetensorError: a file is missing or damaged.
        """
        return {}


ALWAYS: dict[str, type[Method]] = {}
"""Methods that every run has: they have no group of the config, but come with keys of others."""


def due(epoch: int, every: int) -> bool:
    """Whether something done ``every`` so many epochs, or never if 0, is to be done after ``epoch`` epochs."""
    return every > 0 and epoch % every == 0
