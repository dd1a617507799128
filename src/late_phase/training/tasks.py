"""What is learnt from what: to classify images, or to predict a text. All that training and evaluation do differently for them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from late_phase import architectures, data
from late_phase.data.batches import Augmentation, Batches, StreamedBatches, TrainingBatches
from late_phase.data.images import Dataset, Images, Normalization
from late_phase.data.segments import Segments
from late_phase.data.text import Text, Vocabulary
from late_phase.ensemble import ensemble_log_probs
from late_phase.evaluation import text
from late_phase.evaluation.metrics import accuracy, label_log_probs, nll
from late_phase.evaluation.predict import predict
from late_phase.evaluation.predictors import predictor_of
from late_phase.evaluation.suites import Subject
from late_phase.evaluation.text import TextSubject
from late_phase.running_statistics import evaluation_mode
from late_phase.support.errors import UserError
from late_phase.training.config import (
    ArchitectureConfig,
    DatasetConfig,
    ImageArchitectureConfig,
    ImagesConfig,
    LSTMConfig,
    TextConfig,
    TrainConfig,
    options,
)
from late_phase.training.sizes import check_size


@dataclass(frozen=True)
class ImageTask:
    """Classification of images.

    Attributes:
        dataset: the images, on the device where they are wanted.
        encoding: how pixels become inputs.
    """

    dataset: Dataset
    encoding: Normalization

    def model(self, config: ArchitectureConfig, weights: str | None = None, copies: int = 1, whole: bool = False) -> nn.Module:
        """The plain architecture for the dataset's images, with fresh weights or those that ``weights`` names.

        It is tried on one image, to find sizes that don't fit now.

        Args:
            copies: how often the memory has to hold what is as large as the weights.
            whole: the weights are for the dataset's number of classes.

        Raises:
            UserError: there is no such model, or the memory is too small.
        """
        channels, *size = self.dataset.test.shape
        what = f"architecture={config.name} with dataset={self.dataset.name}"
        if isinstance(config, LSTMConfig):
            raise UserError(f"{what} makes no model: choose another architecture, or dataset=pydocs, enwik8 or text_file.")
        try:
            sizes, own = (channels, len(self.dataset.classes)), options(config, ImageArchitectureConfig)
            check_size(config.name, sizes, own, copies)
            model = architectures.build(config.name, *sizes, weights=weights, whole=whole, **own)
            with torch.no_grad():
                model.eval()(torch.zeros(1, channels, *size))
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{what}: {error}") from error
        if config.channels_last:
            model = model.to(memory_format=torch.channels_last)
        return model.train()

    def check(self, config: TrainConfig, model: nn.Module) -> None:
        """There are training images, enough for a minibatch, and none is left alone where that can't be.

        Raises:
            UserError: that isn't so.
        """
        examples, size = len(self.dataset.training_images()), config.batch_size
        if size > examples:
            raise UserError(f"batch_size={size} is larger than the training set ({examples} images): choose a smaller one.")
        if (size == 1 or examples % size == 1) and any(isinstance(module, nn.BatchNorm1d) for module in model.modules()):
            raise UserError(
                f"batch_size={size} makes a minibatch of one of the {examples} images, which BatchNorm can't train on: "
                "choose another batch_size, or a dataset.subset."
            )

    def batches(self, config: TrainConfig) -> Batches:
        settings, train = config.dataset, self.dataset.training_images()
        augmentation = Augmentation(settings.crop_padding, settings.flip, settings.cutout)
        how = (config.batch_size, config.seed, config.architecture.channels_last)
        if isinstance(train, Images):
            return TrainingBatches(train, self.encoding, augmentation, *how)
        if augmentation == Augmentation():
            return StreamedBatches(train, self.encoding, *how)
        raise UserError(
            f"dataset.crop_padding, .flip and .cutout are for images in memory: leave them out, {self.dataset.name} has its own."
        )

    def activations(self, config: TrainConfig, model: nn.Module) -> int:
        """Numbers that layers with weights put out for one image, which training keeps until it goes backward."""
        count = 0

        def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal count
            count += output.numel()

        layers = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
        hooks = [layer.register_forward_hook(add) for layer in layers]
        with torch.no_grad(), evaluation_mode(model):
            model(torch.zeros(1, *self.dataset.test.shape))
        for hook in hooks:
            hook.remove()
        return count

    def measured(self) -> list[str]:
        """Names of what :meth:`measure` measures."""
        return [f"{split}_{name}" for split in self.dataset.held_out() for name in ("nll_nats", "accuracy")]

    def measure(self, model: nn.Module) -> dict[str, float]:
        """``<split>_nll_nats`` and ``<split>_accuracy`` of the images held out."""
        row, splits = {}, self.dataset.held_out()
        for split, members in predict(predictor_of(model), splits, self.encoding).items():
            log_probs, labels = ensemble_log_probs(members), splits[split].labels.cpu()
            row[f"{split}_nll_nats"] = nll(label_log_probs(log_probs, labels))
            row[f"{split}_accuracy"] = accuracy(log_probs, labels)
        return row

    def subject(self, **parts: Any) -> Subject:
        return Subject(dataset=self.dataset, normalization=self.encoding, **parts)


@dataclass(frozen=True)
class TextTask:
    """Prediction of the next byte of a text.

    Attributes:
        dataset: the text, which stays on the CPU, where it may be mapped into memory.
        encoding: the bytes that the model knows.
        device: where minibatches are wanted.
    """

    dataset: Text
    encoding: Vocabulary
    device: torch.device

    def model(self, config: ArchitectureConfig, weights: str | None = None, copies: int = 1, whole: bool = False) -> nn.Module:
        what = f"architecture={config.name} with dataset={self.dataset.name}"
        if not isinstance(config, LSTMConfig):
            raise UserError(f"{what} makes no model: choose architecture=lstm for a text.")
        if weights is not None and stored_encoding(Path(weights)) not in (None, self.encoding):
            raise UserError(
                f"architecture.weights={weights} knows other bytes than {self.dataset.name} has: choose weights of the same text."
            )
        try:
            own = options(config, ArchitectureConfig)
            check_size(config.name, (len(self.encoding),), own, copies)
            return architectures.build(config.name, len(self.encoding), weights=weights, whole=whole, **own)
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{what}: {error}") from error

    def check(self, config: TrainConfig, model: nn.Module) -> None:
        """The text is long enough for one minibatch of whole segments.

        Raises:
            UserError: it isn't.
        """
        streams, length, there = config.batch_size, config.dataset.sequence_length, len(self.dataset.train)
        if streams * length + 1 > there:
            raise UserError(
                f"batch_size={streams} streams of dataset.sequence_length={length} need {streams * length + 1} bytes to train on, "
                f"and {self.dataset.name} has {there}: choose smaller ones, or a longer text."
            )

    def batches(self, config: TrainConfig) -> Batches:
        settings = config.dataset
        how = (config.batch_size, settings.sequence_length, settings.carry_state, self.device)
        return Segments(self.dataset.train, self.encoding, *how, self.dataset.sha256)

    def activations(self, config: TrainConfig, model: nn.Module) -> int:
        """Numbers that training holds at once of one stream of a segment."""
        symbols, embedding = model.embedding.weight.shape
        # Gates, states and their gradients, as measured; logits, their logarithms and gradients.
        return config.dataset.sequence_length * (embedding + 16 * config.architecture.units + 3 * symbols)

    def measured(self) -> list[str]:
        return [f"{part}_bpc" for part in self.dataset.held_out()]

    def measure(self, model: nn.Module) -> dict[str, float]:
        """``<part>_bpc`` of the parts held out."""
        return text.measure({"single": predictor_of(model)}, self.dataset.held_out(), self.encoding, self.device)["single"]

    def subject(self, **parts: Any) -> TextSubject:
        return TextSubject(dataset=self.dataset, vocabulary=self.encoding, device=self.device, **parts)


Task = ImageTask | TextTask


def build_task(config: DatasetConfig, device: torch.device) -> Task:
    """What is to be learnt from the config's dataset."""
    dataset = build_dataset(config)
    return task_of(dataset, build_encoding(config, dataset), device)


def task_of(dataset: Dataset | Text, encoding: Normalization | Vocabulary, device: torch.device) -> Task:
    if isinstance(dataset, Text):
        return TextTask(dataset, encoding, device)
    return ImageTask(dataset.to(device), encoding)


def build_dataset(config: DatasetConfig) -> Dataset | Text:
    if isinstance(config, TextConfig):
        return data.load_text(config.name, **options(config, TextConfig)).take(config.subset, config.test_subset)
    dataset = data.load(config.name, **options(config, ImagesConfig))
    return dataset.split(config.validation, config.subset, config.test_subset, config.split_seed)


def build_encoding(config: DatasetConfig, dataset: Dataset | Text) -> Normalization | Vocabulary:
    """A text's own vocabulary; the training images' own mean and standard deviation, or those of the config."""
    if isinstance(dataset, Text):
        return Vocabulary.of(dataset)
    if config.mean is None or config.std is None:
        return Normalization.of(dataset.training_images())
    channels = dataset.test.shape[0]
    if not len(config.mean) == len(config.std) == channels or min(config.std) <= 0:
        raise UserError(
            f"dataset.mean={config.mean} and dataset.std={config.std} don't fit {dataset.name}: "
            f"give {channels} numbers each, std above 0."
        )
    return Normalization(tuple(config.mean), tuple(config.std))


def stored_encoding(weights: Path) -> Normalization | Vocabulary | None:
    """:func:`read_encoding` of a file, or of the directory of a run; None of weights of another origin."""
    try:
        return read_encoding(weights / "model.safetensors" if weights.is_dir() else weights)
    except (OSError, SafetensorError, TypeError, KeyError, ValueError):
        return None


def read_encoding(model: Path) -> Normalization | Vocabulary:
    """How raw data becomes the inputs of a model in a file that a run has written.

    Raises:
        OSError, SafetensorError, TypeError, KeyError, ValueError: the file is not there, or of another origin.
    """
    with safe_open(model, "pt") as file:
        text = file.metadata()["late_phase"]
    return (Vocabulary if "bytes" in json.loads(text) else Normalization).from_json(text)
