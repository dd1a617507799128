"""Weights in the files of a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from late_phase.evaluation.predictors import Predictor


class WeightFiles:
    """The files: the plain model, and where it has members, their weights.

    Attributes:
        model: the plain model, which loads into the plain architecture.
        members: name -> ``[K, ...]`` for all that the members have each for itself, running statistics included.
        base: the model as it was parametrized in training, where members' names are such as the plain model doesn't have.
    """

    def __init__(self, folder: Path) -> None:
        self.model = folder / "model.safetensors"
        self.members = folder / "members.safetensors"
        self.base = folder / "base.safetensors"

    def all(self) -> list[Path]:
        return [self.model, self.members, self.base]

    def write(self, model: nn.Module, members: dict[str, Tensor], encoding: str) -> None:
        """Writes the files that are needed, and removes the others.

        Args:
            model: as it was parametrized in training; it is left as it is.
            encoding: metadata of the model's file.
        """
        import copy

        from late_phase.layers.fold import fold
        from late_phase.support.files import write_tensors
        from late_phase.weights import tensors

        plain = fold(copy.deepcopy(model))
        write_tensors(self.model, plain.state_dict(), metadata=encoding)
        for path in (self.members, self.base):
            path.unlink(missing_ok=True)
        if members:
            write_tensors(self.members, members)
            if tensors(plain).keys() != tensors(model).keys():
                write_tensors(self.base, tensors(model))


@dataclass(frozen=True)
class Weights:
    """Weights that were read.

    Attributes:
        files: where they are.
        model: the plain model, on its device.
        build: makes another plain model, with weights of any values, on the CPU.
        device: the model's.
        members: whether there are members' weights, if the run's model has members.
        predictors: all that predicts with them, by the name that its metrics have.
    """

    files: WeightFiles
    model: nn.Module
    build: Callable[[], nn.Module]
    device: torch.device
    members: bool
    predictors: dict[str, Predictor] = field(default_factory=dict)
