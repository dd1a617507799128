"""The interface of a task, whatever its data are, and what is evaluated on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from late_phase.architectures import ArchitectureConfig
from late_phase.config.training import TrainConfig
from late_phase.data import DatasetConfig
from late_phase.data.batches import Batches
from late_phase.evaluation.predictors import Predictor
from late_phase.running_statistics import evaluation_mode
from late_phase.support.errors import UserError
from late_phase.tasks.objective import Objective

Metrics = dict[str, dict[str, float]]
"""Name of a predictor -> name of a metric -> value."""


class Task(ABC):
    """Something to learn from a dataset: all of training and evaluation that depends on the kind of data.

    Its ``objective`` says what training minimizes, what it counts, and how an ensemble predicts.

    Args:
        dataset: a dataclass with the data and their ``name``; ``train`` is None if there is nothing to train on.
        encoding: turns raw data into the inputs of a model; ``to_json()`` writes it for the metadata of a model's file.
        device: where models compute.
    """

    kind: ClassVar[str]
    objective: Objective

    def __init__(self, dataset: Any, encoding: Any, device: torch.device) -> None:
        self.dataset = dataset
        self.encoding = encoding
        self.device = device

    # The data.

    @classmethod
    @abstractmethod
    def load(cls, config: DatasetConfig) -> Any:
        """Loads the config's dataset, or the part of it that the config asks for.

        Raises:
            UserError: the dataset can't be loaded.
        """

    @classmethod
    def load_for_evaluation(cls, config: DatasetConfig) -> Any:
        """Loads the dataset without a part to train on.

        Raises:
            UserError: the dataset can't be loaded, or predictions can't be evaluated on it.
        """
        return replace(cls.load(config), train=None)

    @classmethod
    @abstractmethod
    def encoding_of(cls, config: DatasetConfig, dataset: Any) -> Any:
        """Returns the encoding that the config asks for, or else the dataset's own.

        Raises:
            UserError: the encoding of the config doesn't fit the dataset.
        """

    @classmethod
    @abstractmethod
    def read_encoding(cls, text: str) -> Any:
        """Reads what ``encoding.to_json()`` wrote.

        Raises:
            TypeError, KeyError, ValueError: the text is something else.
        """

    @classmethod
    def stored_encoding(cls, model: Path) -> Any:
        """Reads the encoding of a model from a file that a run has written.

        Raises:
            OSError, safetensors.SafetensorError, TypeError, KeyError, ValueError: the file is absent, or has another
                origin, or belongs to another kind of task.
        """
        with safe_open(model, "pt") as file:
            return cls.read_encoding(file.metadata()["late_phase"])

    @classmethod
    def given_encoding(cls, weights: Path) -> Any | None:
        """Returns :meth:`stored_encoding` of a file or of a run's directory, or None for weights of another origin."""
        try:
            return cls.stored_encoding(weights / "model.safetensors" if weights.is_dir() else weights)
        except (OSError, SafetensorError, TypeError, KeyError, ValueError):
            return None

    @classmethod
    @abstractmethod
    def rebuilt(cls, config: ArchitectureConfig, encoding: Any, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
        """Builds a plain model without its dataset, with arbitrary weights.

        Args:
            encoding: the model's encoding.
            shapes: name of a weight of the model -> its shape.

        Raises:
            ValueError, RuntimeError: there is no such model.
        """

    @classmethod
    def for_weights(cls, config: DatasetConfig, weights: Path, device: torch.device) -> Task:
        """Builds the task that weights of any origin were trained for.

        Its encoding comes from the file of the weights, or else from the config.

        Raises:
            UserError: the dataset can't be trained on.
        """
        dataset = cls.load(config)
        encoding = cls.given_encoding(weights)
        return cls(dataset, cls.encoding_of(config, dataset) if encoding is None else encoding, device)

    def fingerprint(self) -> dict[str, str]:
        """Returns what must be the same in two records of the same data; it goes into each record."""
        return {}

    @abstractmethod
    def amount(self) -> dict[str, int]:
        """Returns how much data is evaluated, for a record."""

    def misfit(self, run: Path, trained_on: str) -> UserError:
        """Returns the error for a run whose weights don't fit the architecture for this dataset.

        Args:
            trained_on: name of the dataset that the run was trained on.
        """
        return UserError(f"run={run} has weights of another architecture: train it again in an empty directory.")

    # Training.

    @abstractmethod
    def model(self, config: ArchitectureConfig, weights: str | None = None, copies: int = 1, whole: bool = False) -> nn.Module:
        """Builds the plain architecture for the dataset, with fresh weights or those that ``weights`` names.

        Args:
            copies: how many times the memory must hold something as large as the weights.
            whole: the weights are for exactly this dataset, so the last layer must fit as well.

        Raises:
            UserError: there is no such model, or the memory is too small.
        """

    @abstractmethod
    def check(self, config: TrainConfig, model: nn.Module) -> None:
        """Checks that the data can be cut into valid minibatches.

        Raises:
            UserError: they can't.
        """

    @abstractmethod
    def activations(self, config: TrainConfig, model: nn.Module) -> int:
        """Returns how many numbers training keeps for one example of a minibatch until the backward pass."""

    @abstractmethod
    def batches(self, config: TrainConfig) -> Batches:
        """Returns the minibatches to train on: their inputs are encoded, and all tensors are on the task's device."""

    @abstractmethod
    def measured(self) -> list[str]:
        """Returns the names of what :meth:`measure` measures."""

    def validated(self) -> str | None:
        """Returns the name of the measurement by which an epoch can be chosen; lower is better. None without a validation part."""
        return next((name for name in self.measured() if name.startswith("validation_")), None)

    @staticmethod
    @abstractmethod
    def headline(row: Mapping[str, Any]) -> str | None:
        """Returns the most telling measurement in a row of ``history.csv``, in words, or None if the row lacks it."""

    @abstractmethod
    def measure(self, model: nn.Module) -> dict[str, float]:
        """Measures a model during training, on data held out."""

    # Evaluation.

    @abstractmethod
    def evaluate(self, models: TrainedModels) -> Metrics:
        """Returns the main metrics of trained models, at the end of a run and for ``suite=accuracy``. All are finite."""

    @staticmethod
    @abstractmethod
    def in_words(metrics: Mapping[str, float]) -> str:
        """Returns what :meth:`evaluate` found for one predictor, as a line for the screen."""

    def own_predictions(self, models: TrainedModels) -> TrainedModels:
        """Returns the models with a folder in which their predictions overwrite none of other weights or data."""
        return models

    def show(self, models: TrainedModels) -> str | None:
        """Returns something to look at that the models make, for a run's directory, or None."""
        return None


def numbers_put_out(model: nn.Module, inputs: Tensor) -> tuple[int, int]:
    """Counts the outputs of layers with weights that training keeps for these inputs, and the logits among them.

    For a recurrent layer, the count is 16 times its outputs, as measured for an LSTM: gates, states and their gradients.
    """
    count = 0

    def first(output: Any) -> Tensor:
        return output[0] if isinstance(output, tuple) else output

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        nonlocal count
        count += first(output).numel() * (16 * layer.num_layers if isinstance(layer, nn.RNNBase) else 1)

    layers = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    with torch.no_grad(), evaluation_mode(model):
        logits = first(model(inputs))
    for hook in hooks:
        hook.remove()
    return count, logits.numel()


@dataclass(frozen=True)
class TrainedModels:
    """What is evaluated: all predictors with the weights of a run, of several runs, or of any origin.

    Attributes:
        task: the data that they are evaluated on.
        trained_on: name of the dataset that they were trained on, as in the config; a folder of images may have any name.
        predictors: by the name that their metrics have.
        autocast: makes the context of forward passes.
        seed: seeds the random parts of predictions and evaluations.
        digest: stands for everything besides the data that their predictions depend on.
        results: the folder for results.
        predictions: the folder for predictions on the task's own data.
    """

    task: Task
    trained_on: str
    predictors: dict[str, Predictor]
    autocast: Callable[[], AbstractContextManager]
    seed: int
    digest: str
    results: Path
    predictions: Path
