"""What all averages of weights over training have in common: their keys, their exported models and their predictors."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from late_phase.config.choices import register
from late_phase.config.refusals import at_least
from late_phase.config.training import Chosen, TrainConfig, in_epochs
from late_phase.methods.exported import WeightFiles, Weights
from late_phase.methods.interface import Method, Trained, due
from late_phase.support.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from late_phase.evaluation.predictors import Predictor


@dataclass
class AveragingConfig(Chosen):
    """The config of an averaging. All averagings have ``start``, because ``+debug=smoke`` sets it.

    Attributes:
        of_an_ensemble: whether the averaging accepts a model that is itself an ensemble.
    """

    of_an_ensemble: ClassVar[bool] = True

    start: int | None = in_epochs(None)


@dataclass
class AverageConfig(AveragingConfig):
    """The config of an averaging that averages weights from ``start`` on."""

    copies: ClassVar[int] = 1

    def check(self, config: TrainConfig) -> None:
        at_least("averaging.start", self.start, 0)
        if self.start is None:
            raise UserError("averaging.start is not set: choose the number of epochs before the first that is averaged.")
        if self.start >= config.epochs:
            raise UserError(
                f"averaging.start={self.start} leaves none of {config.epochs} epochs to average: choose an earlier one."
            )


class Average(ABC):
    """An average of all weights that it was given.

    With late-phase weights these are θ and Φ as ``LatePhase.weights()`` returns them, so every member has its own average.
    Running statistics are not averaged, because an averaged model's are re-estimated (Appendix A).

    Attributes:
        count: number of updates.
        mean: name -> average; empty before the first update.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: dict[str, Tensor] = {}

    @abstractmethod
    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Adds weights to the average. The first ones are the average themselves.

        Args:
            weights: name -> tensor without gradient. Names and shapes must be the same each time.
        """

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state_dict: Mapping[str, Any], device: torch.device) -> None:
        def moved(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: moved(entry) for name, entry in value.items()}
            if isinstance(value, list):
                return [moved(entry) for entry in value]
            return value.to(device) if hasattr(value, "to") else value

        vars(self).update({name: moved(value) for name, value in state_dict.items()})


class MovingAverage(Average):
    """An average that moves towards each of the weights, and keeps none of them."""

    def update(self, weights: Mapping[str, Tensor]) -> None:
        if self.count:
            self.move(list(self.mean.values()), [weights[name] for name in self.mean])
        else:
            self.mean = {name: value.clone() for name, value in weights.items()}
        self.count += 1

    @abstractmethod
    def move(self, mean: list[Tensor], weights: list[Tensor]) -> None:
        """Moves the average of ``count`` weights in place towards the next ones."""


class AverageMethod(Method, ABC):
    """An average of weights over training. Its predictors are ``<name>``, the single model, and ``<name>_ensemble``, the members.

    Subclasses say when :meth:`update` is called.

    Attributes:
        name: name of the predictor, of the folder with its weights, and of columns in ``history.csv``.
    """

    name: ClassVar[str | None] = None

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.average = self.empty()

    @abstractmethod
    def empty(self) -> Average:
        """Returns the average before its first update."""

    def update(self, trained: Trained, epoch: int) -> None:
        """Adds the present weights to the average, unless ``epoch``, counted from 0, is before the start."""
        if epoch >= self.config.averaging.start:
            self.average.update(trained.late.weights())

    def measured(self, trained: Trained, epoch: int) -> dict[str, nn.Module | None]:
        every = self.config.runtime.evaluate_swa_every
        wanted = self.average.count > 0 and (due(epoch, every) or (epoch == self.config.epochs and every > 0))
        return {f"{self.name}_": self.model(trained) if wanted else None}

    def state_dict(self) -> dict[str, Any]:
        return self.average.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any], device: torch.device) -> None:
        self.average.load_state_dict(state_dict, device)

    def export(self, trained: Trained, folder: Path, encoding: str) -> None:
        WeightFiles(folder / self.name).write(self.model(trained), self.members(trained), encoding)

    @classmethod
    def files(cls, folder: Path) -> list[Path]:
        return [] if cls.name is None else WeightFiles(folder / cls.name).all()

    def predictors(self, folder: Path, read: Callable[..., Weights]) -> dict[str, Predictor]:
        return self.predictors_of_average(read(folder / self.name))

    def predictors_of_average(self, weights: Weights) -> dict[str, Predictor]:
        own = self.name
        return {own if name == "single" else f"{own}_{name}": predictor for name, predictor in weights.predictors.items()}

    def model(self, trained: Trained) -> nn.Module:
        """Returns the single model with averaged weights, and with re-estimated running statistics."""
        from late_phase.running_statistics import recompute_running_statistics
        from late_phase.weights import load

        phi = trained.late.phi
        model = copy.deepcopy(trained.late.model)
        load(model, {name: value.mean(0) if name in phi else value for name, value in self.average.mean.items()})
        with trained.autocast():
            recompute_running_statistics(model, trained.spare_batches())
        return model

    def members(self, trained: Trained) -> dict[str, Tensor]:
        """Returns each member's average of φ, and its re-estimated running statistics: name -> ``[K, ...]``."""
        from late_phase.running_statistics import recompute_for_each
        from late_phase.weights import load

        late, mean = trained.late, self.average.mean
        if not late.members:
            return {}
        phi = {name: mean[name] for name in late.phi}
        model = load(copy.deepcopy(late.model), {name: value for name, value in mean.items() if name not in phi})
        weights = ({name: value[k] for name, value in phi.items()} for k in range(late.K))
        with trained.autocast():
            return phi | recompute_for_each(model, weights, trained.spare_batches)


register("averaging", "none", AveragingConfig, Method)
