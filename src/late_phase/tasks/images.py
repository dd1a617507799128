"""Classification of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from late_phase import architectures, data
from late_phase.architectures import ArchitectureConfig, ImageArchitectureConfig
from late_phase.config.choices import options
from late_phase.data import ImagesConfig
from late_phase.data.batches import Augmentation, Batches, StreamedBatches, TrainingBatches
from late_phase.data.images import Dataset, Images, Normalization
from late_phase.ensemble import ensemble_log_probs
from late_phase.evaluation.metrics import accuracy, label_log_probs, nll
from late_phase.evaluation.predict import content_of, predict, read_content, read_metrics, read_predictions, write_predictions
from late_phase.evaluation.predictors import predictor_of
from late_phase.support.digests import digest
from late_phase.support.errors import UserError
from late_phase.tasks.objective import Classification
from late_phase.tasks.task import Metrics, Task, TrainedModels, numbers_put_out

if TYPE_CHECKING:
    from late_phase.config.training import TrainConfig


class ImageTask(Task):
    """The task of images: the dataset is a :class:`Dataset` on the device, the encoding a :class:`Normalization` of its pixels."""

    kind = "images"
    objective = Classification()

    def __init__(self, dataset: Dataset, encoding: Normalization, device: torch.device) -> None:
        super().__init__(dataset.to(device), encoding, device)

    # The data.

    @classmethod
    def load(cls, config: ImagesConfig) -> Dataset:
        dataset = data.load(config.name, **options(config, ImagesConfig))
        return dataset.split(config.validation, config.subset, config.test_subset, config.split_seed)

    @classmethod
    def load_for_evaluation(cls, config: ImagesConfig) -> Dataset:
        dataset = super().load_for_evaluation(config)
        if not dataset.classes:
            raise UserError(
                f"dataset={dataset.name} has no labels to compare with: choose suite=ood with ood=[{dataset.name}] instead."
            )
        return dataset

    @classmethod
    def encoding_of(cls, config: ImagesConfig, dataset: Dataset) -> Normalization:
        """Returns the mean and standard deviation of the config, or else those of the training images."""
        if config.mean is None or config.std is None:
            return Normalization.of(dataset.training_images())
        channels = dataset.test.shape[0]
        if not len(config.mean) == len(config.std) == channels or min(config.std) <= 0:
            raise UserError(
                f"dataset.mean={config.mean} and dataset.std={config.std} don't fit {dataset.name}: "
                f"give {channels} numbers each, std above 0."
            )
        return Normalization(tuple(config.mean), tuple(config.std))

    @classmethod
    def read_encoding(cls, text: str) -> Normalization:
        return Normalization.from_json(text)

    @classmethod
    def rebuilt(cls, config: ImageArchitectureConfig, encoding: Normalization, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
        channels, classes, own = len(encoding.mean), 2, options(config, ImageArchitectureConfig)
        with torch.device("meta"):
            weights = architectures.build(config.name, channels, classes, **own).state_dict()
        # Only the last layer depends on the number of classes.
        others = {shapes[name][0] for name, weight in weights.items() if name in shapes and shapes[name] != tuple(weight.shape)}
        return architectures.build(config.name, channels, *(others or {classes}), **own)

    @classmethod
    def for_weights(cls, config: ImagesConfig, weights: Path, device: torch.device) -> ImageTask:
        dataset = cls.load(config)
        if dataset.train is None or not dataset.classes:
            raise UserError(
                f"dataset={dataset.name} has no labelled training images: choose the dataset that the weights were trained on."
            )
        encoding = cls.given_encoding(weights) if config.mean is None else None
        return cls(dataset, encoding or cls.encoding_of(config, dataset), device)

    def fingerprint(self) -> dict[str, str]:
        parts = [part for part in (self.dataset.train, self.dataset.validation, self.dataset.test) if part is not None]
        if not all(isinstance(part, Images) for part in parts):  # streamed images would take hours
            return {}
        return {"images_sha256": digest(*(part.fingerprint() for part in parts))}

    def amount(self) -> dict[str, int]:
        return {"images": len(self.dataset.test)}

    def misfit(self, run: Path, trained_on: str) -> UserError:
        classes, channels = len(self.dataset.classes), self.dataset.test.shape[0]
        return UserError(
            f"dataset={self.dataset.name} with {classes} classes and {channels} channels doesn't fit the model in {run}: "
            f"choose one like {trained_on}."
        )

    # Training.

    def model(self, config: ArchitectureConfig, weights: str | None = None, copies: int = 1, whole: bool = False) -> nn.Module:
        """Builds the model; see :meth:`Task.model`.

        The model is tried on one image, so that sizes that don't fit are found now.
        """
        channels, *size = self.dataset.test.shape
        what = f"architecture={config.name} with dataset={self.dataset.name}"
        if config.task != self.kind:
            raise UserError(f"{what} can't work: choose another architecture, or dataset={', '.join(data.names(config.task))}.")
        try:
            sizes, own = (channels, len(self.dataset.classes)), options(config, ImageArchitectureConfig)
            architectures.check_size(config.name, sizes, own, copies)
            model = architectures.build(config.name, *sizes, weights=weights, whole=whole, **own)
            with torch.no_grad():
                model.eval()(torch.zeros(1, channels, *size))
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{what}: {error}") from error
        if config.channels_last:
            model = model.to(memory_format=torch.channels_last)
        return model.train()

    def check(self, config: TrainConfig, model: nn.Module) -> None:
        """Refuses a batch size above the number of training images, or one that leaves BatchNorm a minibatch of one image."""
        examples, size = len(self.dataset.training_images()), config.batch_size
        if size > examples:
            raise UserError(f"batch_size={size} is larger than the training set ({examples} images): choose a smaller one.")
        if (size == 1 or examples % size == 1) and any(isinstance(module, nn.BatchNorm1d) for module in model.modules()):
            raise UserError(
                f"batch_size={size} leaves one of the {examples} images alone in a minibatch, which BatchNorm can't train on: "
                "choose another batch_size or dataset.subset."
            )

    def activations(self, config: TrainConfig, model: nn.Module) -> int:
        """Returns how many numbers the layers with weights put out for one image."""
        return numbers_put_out(model, torch.zeros(1, *self.dataset.test.shape))[0]

    def batches(self, config: TrainConfig) -> Batches:
        settings, train = config.dataset, self.dataset.training_images()
        augmentation = Augmentation(settings.crop_padding, settings.flip, settings.cutout)
        how = (config.batch_size, config.seed, config.architecture.channels_last)
        if isinstance(train, Images):
            return TrainingBatches(train, self.encoding, augmentation, *how)
        if augmentation == Augmentation():
            return StreamedBatches(train, self.encoding, *how)
        raise UserError(
            f"dataset.crop_padding, .flip and .cutout don't apply to {self.dataset.name}, which has its own: leave them out."
        )

    def measured(self) -> list[str]:
        return [f"{split}_{name}" for split in self.dataset.held_out() for name in ("nll_nats", "accuracy")]

    @staticmethod
    def headline(row: Mapping[str, Any]) -> str | None:
        return None if row["test_accuracy"] is None else f"{row['test_accuracy']:z.1%}"

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Returns ``<split>_nll_nats`` and ``<split>_accuracy`` of the images held out."""
        row, splits = {}, self.dataset.held_out()
        for split, members in predict(predictor_of(model), splits, self.encoding).items():
            log_probs, labels = ensemble_log_probs(members), splits[split].labels.cpu()
            row[f"{split}_nll_nats"] = nll(label_log_probs(log_probs, labels))
            row[f"{split}_accuracy"] = accuracy(log_probs, labels)
        return row

    # Evaluation.

    def evaluate(self, models: TrainedModels) -> Metrics:
        """Returns accuracy, NLL in nats and ECE on the images held out.

        If the training images are in memory, the loss on them is also returned.
        """
        train = {"train": self.dataset.train} if isinstance(self.dataset.train, Images) else {}
        splits = train | self.dataset.held_out()
        self.predict(models, models.predictions, splits)
        return read_metrics(models.predictions, splits, models.predictors)

    @staticmethod
    def in_words(metrics: Mapping[str, float]) -> str:
        training = f", training loss {metrics['train_loss']:z.4f} nats" if "train_loss" in metrics else ""
        accuracy, ece = (f"{metrics[name]:z.2%}" for name in ("test_accuracy", "test_ece"))
        return f"test accuracy {accuracy}, NLL {metrics['test_nll']:z.4f} nats, ECE {ece}{training}"

    def own_predictions(self, models: TrainedModels) -> TrainedModels:
        """See :meth:`Task.own_predictions`.

        If the folder holds predictions of other images or weights, new ones go to a folder of their own in the results.
        """
        made_of = content_of(models.digest, models.predictors, self.dataset.test)
        if read_content(models.predictions, "test") in (None, made_of):
            return models
        return replace(models, predictions=models.results / self.dataset.name)

    def predict(self, models: TrainedModels, folder: Path, splits: Mapping[str, Images]) -> None:
        """Makes sure that ``folder`` holds predictions of these images.

        Predictions made from the same content are reused.
        """
        with models.autocast():
            write_predictions(folder, splits, models.predictors, self.encoding, models.seed, models.digest)

    def test_predictions(self, models: TrainedModels) -> tuple[dict[str, Tensor], Tensor]:
        """Returns the predictions of the test images, and the labels.

        For each predictor they are log-probabilities ``[members, examples, classes]``.
        """
        self.predict(models, models.predictions, {"test": self.dataset.test})
        return read_predictions(models.predictions, "test", models.predictors)
