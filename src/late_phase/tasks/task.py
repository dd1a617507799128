"""What a task is, whatever its data are; and what is evaluated on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from late_phase.architectures import ArchitectureConfig
from late_phase.config.training import TrainConfig
from late_phase.data import DatasetConfig
from late_phase.data.batches import Batches
from late_phase.evaluation.predictors import Predictor
from late_phase.support.errors import UserError

Numbers = dict[str, dict[str, float]]
"""Name of what predicts -> name of a metric -> value."""


class Task(ABC):
    """Something to be learnt from a dataset: all that training and evaluation do differently for one kind of data.

    Args:
        dataset: the data; its ``train`` is None where there is nothing to train on.
        encoding: how raw data becomes the inputs of a model; ``to_json()`` writes it, as the metadata of a model's file.
        device: where models compute.
    """

    kind: ClassVar[str]

    def __init__(self, dataset: Any, encoding: Any, device: torch.device) -> None:
        self.dataset = dataset
        self.encoding = encoding
        self.device = device

    # The data.

    @classmethod
    @abstractmethod
    def load(cls, config: DatasetConfig) -> Any:
        """The dataset that the config names, or the parts of it.

        Raises:
            UserError: it is not to be had.
        """

    @classmethod
    @abstractmethod
    def load_for_evaluation(cls, config: DatasetConfig) -> Any:
        """The same without a part to train on.

        Raises:
            UserError: it is not to be had, or says nothing about a model's predictions.
        """

    @classmethod
    @abstractmethod
    def encoding_of(cls, config: DatasetConfig, dataset: Any) -> Any:
        """The encoding that the config asks for, or that the dataset has by itself.

        Raises:
            UserError: the config's doesn't fit the dataset.
        """

    @classmethod
    @abstractmethod
    def read_encoding(cls, text: str) -> Any:
        """What ``encoding.to_json()`` wrote.

        Raises:
            TypeError, KeyError, ValueError: it is something else.
        """

    @classmethod
    def stored_encoding(cls, model: Path) -> Any:
        """The encoding of a model in a file that a run has written.

        Raises:
            OSError, safetensors.SafetensorError, TypeError, KeyError, ValueError: the file is not there, or of another origin, or
                of another kind of task.
        """
        with safe_open(model, "pt") as file:
            return cls.read_encoding(file.metadata()["late_phase"])

    @classmethod
    def given_encoding(cls, weights: Path) -> Any | None:
        """:meth:`stored_encoding` of a file, or of the directory of a run; None of weights of another origin."""
        try:
            return cls.stored_encoding(weights / "model.safetensors" if weights.is_dir() else weights)
        except (OSError, SafetensorError, TypeError, KeyError, ValueError):
            return None

    @classmethod
    def for_weights(cls, config: DatasetConfig, weights: Path, device: torch.device) -> Task:
        """The task that weights of any origin were trained for: with the encoding in their file, or else the config's.

        Raises:
            UserError: the dataset is not one to train on.
        """
        dataset = cls.load(config)
        encoding = cls.given_encoding(weights)
        return cls(dataset, cls.encoding_of(config, dataset) if encoding is None else encoding, device)

    def fingerprint(self) -> dict[str, str]:
        """What has to be the same in two records of the same data; goes into each record."""
        return {}

    @abstractmethod
    def amount(self) -> dict[str, int]:
        """How much is evaluated, for a record."""

    def misfit(self, run: Path, trained_on: str) -> UserError:
        """Why the weights of a run can't be loaded into the architecture for this dataset.

        Args:
            trained_on: name of the dataset that the run was trained on.
        """
        return UserError(f"run={run} has weights of another architecture: train it again in an empty directory.")

    # Training.

    @abstractmethod
    def model(self, config: ArchitectureConfig, weights: str | None = None, copies: int = 1, whole: bool = False) -> nn.Module:
        """The plain architecture for the dataset, with fresh weights or those that ``weights`` names.

        Args:
            copies: how often the memory has to hold what is as large as the weights.
            whole: the weights are for just this dataset: none of the architecture's may start anew.

        Raises:
            UserError: there is no such model, or the memory is too small.
        """

    @abstractmethod
    def check(self, config: TrainConfig, model: nn.Module) -> None:
        """Refuses minibatches that can't be.

        Raises:
            UserError: they can't.
        """

    @abstractmethod
    def activations(self, config: TrainConfig, model: nn.Module) -> int:
        """Numbers that training keeps of one example of a minibatch until it goes backward."""

    @abstractmethod
    def batches(self, config: TrainConfig) -> Batches:
        """The minibatches to train on."""

    @abstractmethod
    def measured(self) -> list[str]:
        """Names of what :meth:`measure` measures."""

    @staticmethod
    @abstractmethod
    def headline(row: Mapping[str, Any]) -> str | None:
        """The most telling of what is measured, in a row of ``history.csv``, in words; None if it wasn't measured then."""

    @abstractmethod
    def measure(self, model: nn.Module) -> dict[str, float]:
        """What is measured of a model while it is trained, on data held out."""

    # Evaluation.

    @abstractmethod
    def evaluate(self, models: TrainedModels) -> Numbers:
        """What is measured of trained models first of all: at the end of a run, and by ``suite=accuracy``."""

    @staticmethod
    @abstractmethod
    def in_words(metrics: Mapping[str, float]) -> str:
        """What :meth:`evaluate` found of one predictor, as a line for the screen."""

    def own_predictions(self, models: TrainedModels) -> TrainedModels:
        """The models; what they predicted once stays if they have been changed since."""
        return models

    def show(self, models: TrainedModels) -> str | None:
        """Something for the eye that the models make, for a run's directory."""
        return None


@dataclass(frozen=True)
class TrainedModels:
    """What is evaluated: all that predicts with the weights of a run, of several runs, or of any origin.

    Attributes:
        task: the data that it is evaluated on.
        trained_on: name of the dataset that it was trained on, as the config has it; a folder of images may have any name.
        predictors: by the name that their metrics have.
        autocast: makes the context of forward passes.
        seed: of what is random in predictions and evaluations.
        digest: stands for all that its predictions depend on besides the data.
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
