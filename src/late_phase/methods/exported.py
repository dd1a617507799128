"""Writes a run's weights to files in a folder, and describes weights that were read from them."""

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
    """The weight files in a folder: the plain model and, if there are members, their weights.

    Attributes:
        model: the plain model, which loads into the plain architecture.
        members: the members' late-phase weights and running statistics, name -> ``[K, ...]``.
        base: the model as parametrized in training. It exists only if members have weights that the plain model lacks.
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
            model: the model as parametrized in training. It stays as it is.
            members: name -> ``[K, ...]``; empty without members.
            encoding: metadata for the model's file.
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
    """Weights that were read from a folder.

    Attributes:
        files: the weight files.
        model: the plain model, on ``device``.
        build: makes another plain model on the CPU, with arbitrary weights.
        device: the model's device.
        members: whether the folder has members' weights if the run has members.
        predictors: the weights' predictors, by the name under which their metrics are stored.
    """

    files: WeightFiles
    model: nn.Module
    build: Callable[[], nn.Module]
    device: torch.device
    members: bool
    predictors: dict[str, Predictor] = field(default_factory=dict)
