"""Builds what a run works with from its config, and refuses what can't work together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from late_phase import architectures, data
from late_phase.data.batches import Augmentation, TrainingBatches
from late_phase.data.images import Dataset, Normalization
from late_phase.errors import UserError
from late_phase.method import LatePhase
from late_phase.selection import Selection, batchnorm, head, nothing
from late_phase.training import optimizers
from late_phase.training.config import ArchitectureConfig, DatasetConfig, LatePhaseConfig, TrainConfig, options
from late_phase.training.settings import autocast

SELECTIONS: dict[str, Selection] = {"none": nothing(), "batchnorm": batchnorm()}
"""``late_phase.name`` -> φ, to which ``late_phase.head`` adds the last layer."""


@dataclass(frozen=True)
class Setup:
    """A run's config and the parts made from it, on its device."""

    config: TrainConfig
    device: torch.device
    dataset: Dataset
    normalization: Normalization
    batches: TrainingBatches
    late: LatePhase

    def autocast(self) -> torch.autocast:
        return autocast(self.device, self.config.compute.precision)

    def single_model(self) -> nn.Module:
        """The averaged model. Where running statistics are recomputed, it is on an epoch that training doesn't reach."""
        running_statistics = self.config.late_phase.running_statistics
        recompute = running_statistics == "recompute"
        return self.late.average(running_statistics, self.batches.epoch(self.config.epochs) if recompute else None)


def build(config: TrainConfig, device: torch.device) -> Setup:
    """All parts of a run.

    Raises:
        UserError: dataset, architecture, late-phase weights and batch size don't go together.
    """
    dataset = build_dataset(config.dataset)
    normalization = build_normalization(config.dataset, dataset)
    model = build_model(config, dataset)
    check_batch_size(config, dataset, model)
    late = build_late_phase(config, model.to(device))
    dataset = dataset.to(device)
    settings = config.dataset
    augmentation = Augmentation(settings.crop_padding, settings.flip, settings.cutout)
    check_members(config, -(-len(dataset.train) // config.batch_size))
    batches = TrainingBatches(
        dataset.train, normalization, augmentation, config.batch_size, config.seed, config.architecture.channels_last
    )
    return Setup(config, device, dataset, normalization, batches, late)


def build_dataset(config: DatasetConfig) -> Dataset:
    dataset = data.load(config.name, **options(config, DatasetConfig))
    return dataset.split(config.validation, config.subset, config.test_subset, config.split_seed)


def build_normalization(config: DatasetConfig, dataset: Dataset) -> Normalization:
    """The training images' own mean and standard deviation, or those of the config."""
    if config.mean is None or config.std is None:
        return Normalization.of(dataset.train)
    channels = dataset.train.pixels.shape[1]
    if not len(config.mean) == len(config.std) == channels or min(config.std) <= 0:
        raise UserError(
            f"dataset.mean={config.mean} and dataset.std={config.std} don't fit {dataset.name}: "
            f"give {channels} numbers each, std above 0."
        )
    return Normalization(tuple(config.mean), tuple(config.std))


def build_model(config: TrainConfig, dataset: Dataset) -> nn.Module:
    """The architecture for the dataset's images, with fresh weights; tried on one image, to find sizes that don't fit now."""
    channels, size = dataset.train.pixels.shape[1], tuple(dataset.train.pixels.shape[2:])
    try:
        model = architectures.build(
            config.architecture.name, channels, len(dataset.classes), **options(config.architecture, ArchitectureConfig)
        )
        with torch.no_grad():
            model.eval()(torch.zeros(1, channels, *size))
    except (ValueError, RuntimeError) as error:
        raise UserError(f"architecture={config.architecture.name} with dataset={dataset.name}: {error}") from error
    if config.architecture.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model.train()


def build_late_phase(config: TrainConfig, model: nn.Module) -> LatePhase:
    """The optimizer, wrapped for late-phase learning. Without it (``late_phase=none``) there is no φ and one member."""
    settings: LatePhaseConfig = config.late_phase
    optimizer = optimizers.build(config.optimizer.name, model.parameters(), **options(config.optimizer))
    phi_options = {} if settings.weight_decay is None else {"weight_decay": settings.weight_decay}
    select = SELECTIONS[settings.name] + (head() if settings.head else nothing())
    try:
        return LatePhase(model, optimizer, select, settings.K, settings.sigma0, settings.gamma_theta, phi_options)
    except ValueError as error:
        raise UserError(f"late_phase={settings.name} with architecture={config.architecture.name}: {error}") from error


def check_members(config: TrainConfig, minibatches: int) -> None:
    """There must be at least one iteration after T0, ``minibatches`` being those of an epoch."""
    settings = config.late_phase
    left = 0 if settings.T0 is None else (config.epochs - settings.T0) * minibatches
    if settings.name != "none" and 0 < left < settings.K:
        raise UserError(
            f"late_phase.K={settings.K} is more than the {left} minibatches after T0, so the base weights would never move: "
            "choose a smaller K or an earlier late_phase.T0."
        )


def check_batch_size(config: TrainConfig, dataset: Dataset, model: nn.Module) -> None:
    examples, size = len(dataset.train), config.batch_size
    if size > examples:
        raise UserError(f"batch_size={size} is larger than the training set ({examples} images): choose a smaller one.")
    if (size == 1 or examples % size == 1) and any(isinstance(module, nn.BatchNorm1d) for module in model.modules()):
        raise UserError(
            f"batch_size={size} makes a minibatch of one of the {examples} images, which BatchNorm can't train on: "
            "choose another batch_size, or a dataset.subset."
        )
