"""Builds what a run works with from its config, and refuses what can't work together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from late_phase import averaging
from late_phase.averaging.swa import SWA
from late_phase.data.batches import Batches
from late_phase.evaluation.predictors import swag_weights
from late_phase.layers.batch_ensemble import BatchEnsemble, fast_weights
from late_phase.layers.hypernetwork import embeddings, generate_convolutions
from late_phase.layers.rank1 import parametrize_rank1, rank1
from late_phase.method import LatePhase
from late_phase.running_statistics import recompute_for_each, recompute_running_statistics, running_statistics
from late_phase.selection import Selection, batchnorm, everything, head, nothing
from late_phase.support.errors import UserError
from late_phase.support.seeding import generator
from late_phase.training import optimizers, sizes
from late_phase.training.config import (
    BatchEnsembleConfig,
    LatePhaseConfig,
    SWAGConfig,
    TrainConfig,
    options,
)
from late_phase.training.settings import autocast
from late_phase.training.tasks import Task, build_task
from late_phase.weights import load


@dataclass(frozen=True)
class LatePhaseModel:
    """A kind of late-phase weights: which they are, what puts them into a plain model, and the optimizer's options for them."""

    select: Selection = field(default_factory=nothing)
    prepare: Callable[..., None] | None = None
    options: dict[str, float] = field(default_factory=dict)


LATE_PHASE_MODELS = {
    "none": LatePhaseModel(),
    "accumulation": LatePhaseModel(),
    "batchnorm": LatePhaseModel(batchnorm()),
    "full": LatePhaseModel(everything()),
    "head": LatePhaseModel(head()),
    "hypernetwork": LatePhaseModel(embeddings(), generate_convolutions, {"weight_decay": 0.0}),
    "rank1": LatePhaseModel(rank1(), parametrize_rank1),
}
"""``late_phase.name`` -> φ, to which ``late_phase.head`` adds the last layer."""


@dataclass(frozen=True)
class Setup:
    """A run's config and the parts made from it, on its device."""

    config: TrainConfig
    device: torch.device
    task: Task
    batches: Batches
    late: LatePhase
    averaging: SWA | None

    def autocast(self) -> torch.autocast:
        return autocast(self.device, self.config.compute.precision)

    def spare_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Minibatches to estimate running statistics with: those of an epoch that training doesn't reach."""
        return self.batches.epoch(self.config.epochs)

    def single_model(self) -> nn.Module:
        """The averaged model (Eq. 1), as it is parametrized in training."""
        choice = self.config.late_phase.running_statistics
        with self.autocast():
            return self.late.average(choice, self.spare_batches() if choice == "recompute" else None)

    def swa_model(self) -> nn.Module:
        """The average over epochs, of Φ also over members, with its running statistics re-estimated."""
        mean = self.averaging.mean
        phi = self.late.phi
        model = copy.deepcopy(self.late.model)
        load(model, {name: value.mean(0) if name in phi else value for name, value in mean.items()})
        with self.autocast():
            recompute_running_statistics(model, self.spare_batches())
        return model

    def members(self) -> dict[str, Tensor]:
        """Φ, and all running statistics, those that the members share included: name -> ``[K, ...]``; empty without members."""
        members = self.late.members
        if not members:
            return {}
        shared = {name: value for name, value in running_statistics(self.late.model).items() if name not in members}
        return members | {name: torch.stack([value] * self.late.K) for name, value in shared.items()}

    def swa_members(self) -> dict[str, Tensor]:
        """The average over epochs of each member's φ, and the running statistics re-estimated for it: name -> ``[K, ...]``."""
        mean, phi = self.averaging.mean, self.late.phi
        if not self.late.members:
            return {}
        model = load(copy.deepcopy(self.late.model), {name: value for name, value in mean.items() if name not in phi})
        weights = ({name: mean[name][k] for name in phi} for k in range(self.late.K))
        with self.autocast():
            return {name: mean[name] for name in phi} | recompute_for_each(model, weights, self.spare_batches)

    def swag_statistics(self) -> dict[str, Tensor]:
        """The running statistics re-estimated for each of SWAG's samples: name -> ``[samples, ...]``."""
        settings = self.config.averaging
        weights = swag_weights(self.averaging, settings.samples, settings.scale, self.config.seed)
        with self.autocast():
            return recompute_for_each(copy.deepcopy(self.late.model), weights, self.spare_batches)


def build(config: TrainConfig, device: torch.device) -> Setup:
    """All parts of a run.

    Raises:
        UserError: dataset, architecture, late-phase weights and batch size don't go together.
    """
    task = build_task(config.dataset, device)
    model = task.model(config.architecture, config.architecture.weights, sizes.copies(config))
    task.check(config, model)
    if device.type == "cpu":
        sizes.check_minibatch(config, task.activations(config, model))
    sizes.check_ensemble(config, model)
    late = build_late_phase(config, prepare(config, model).to(device))
    batches = task.batches(config)
    check_members(config, len(batches))
    sizes.check_growth(config, late)
    swag = {"rank": config.averaging.rank} if isinstance(config.averaging, SWAGConfig) else {}
    return Setup(config, device, task, batches, late, averaging.build(config.averaging.name, **swag))


def prepare(config: TrainConfig, model: nn.Module) -> nn.Module:
    """The plain model made ready for the config's late-phase model and ensemble, which may parametrize its weights anew."""
    settings, how = config.late_phase, LATE_PHASE_MODELS[config.late_phase.name].prepare
    try:
        if how is not None:
            how(model, **options(settings, LatePhaseConfig), generator=generator(config.seed, "late-phase model"))
        if isinstance(config.ensemble, BatchEnsembleConfig):
            model = BatchEnsemble(model, config.ensemble.K, config.ensemble.init, generator(config.seed, "ensemble"))
    except ValueError as error:
        raise UserError(
            f"late_phase={settings.name} and ensemble={config.ensemble.name} with architecture={config.architecture.name}: {error}"
        ) from error
    return model


def build_late_phase(config: TrainConfig, model: nn.Module) -> LatePhase:
    """The optimizer, wrapped for late-phase learning. Without it (``late_phase=none``) there is no φ and one member."""
    settings, kind = config.late_phase, LATE_PHASE_MODELS[config.late_phase.name]
    exceptions = [(kind.select, kind.options)] if kind.options else []
    if isinstance(config.ensemble, BatchEnsembleConfig):
        exceptions.append((fast_weights(), {"lr": config.optimizer.lr * config.ensemble.lr_factor, "weight_decay": 0.0}))
    optimizer = optimizers.build(config.optimizer.name, model, exceptions, **options(config.optimizer))
    phi_options = {} if settings.weight_decay is None else {"weight_decay": settings.weight_decay}
    select = kind.select + (head() if settings.head else nothing())
    try:
        return LatePhase(model, optimizer, select, settings.K, settings.sigma0, settings.gamma_theta, phi_options)
    except ValueError as error:
        raise UserError(f"late_phase={settings.name} with architecture={config.architecture.name}: {error}") from error


def has_members(config: TrainConfig) -> bool:
    """Whether a finished run has late-phase weights and has come to T0."""
    settings = config.late_phase
    phi = LATE_PHASE_MODELS[settings.name].select.rules or settings.head
    return bool(phi) and settings.T0 is not None and config.epochs > settings.T0


def check_members(config: TrainConfig, minibatches: int) -> None:
    """There must be at least one iteration after T0, ``minibatches`` being those of an epoch."""
    settings = config.late_phase
    left = 0 if settings.T0 is None else (config.epochs - settings.T0) * minibatches
    if settings.name != "none" and settings.gamma_theta > 0 and 0 < left < settings.K:
        raise UserError(
            f"late_phase.K={settings.K} is more than the {left} minibatches after T0, so the base weights would never move: "
            "choose a smaller K or an earlier late_phase.T0."
        )
