"""What a config can't say, refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from late_phase.checks import RUNNING_STATISTICS
from late_phase.support.errors import UserError
from late_phase.support.paths import check_utf8
from late_phase.training.config import (
    OWN,
    SCHEMAS,
    SUITES,
    AdamConfig,
    BatchEnsembleConfig,
    BreakpointsConfig,
    DatasetConfig,
    EvaluateConfig,
    ImageArchitectureConfig,
    ImageFolderConfig,
    ImageNetConfig,
    ImagesConfig,
    MultistepConfig,
    Rank1Config,
    SGDConfig,
    SWAGConfig,
    TextConfig,
    TrainConfig,
)


def check(config: TrainConfig) -> TrainConfig:
    """Refuses what can't work, before any work; what depends on the data is checked when the data is there.

    Raises:
        UserError: naming the key, the value and the cure.
    """

    def at_least(key: str, lowest: float) -> None:
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        if value is not None and not lowest <= value < float("inf"):
            raise UserError(f"{key}={value} is out of range: choose a number of at least {lowest}.")

    def one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
        if value not in choices:
            raise UserError(f"{key}={value} is unknown: choose one of {', '.join(choices)}.")

    for key in ("epochs", "batch_size", "late_phase.K", "dataset.subset", "dataset.test_subset", "runtime.threads"):
        at_least(key, 1)
    if isinstance(config.architecture, ImageArchitectureConfig):
        at_least("architecture.mc_samples", 1)
    if isinstance(config.dataset, ImageFolderConfig):
        at_least("dataset.image_size", 1)
    if isinstance(config.dataset, ImageNetConfig):
        at_least("dataset.workers", 0)
    if isinstance(config.dataset, ImagesConfig):
        for key in ("dataset.crop_padding", "dataset.cutout", "dataset.validation"):
            at_least(key, 0)
        if (config.dataset.mean is None) != (config.dataset.std is None):
            raise UserError("dataset.mean and dataset.std go together: set both, or neither to have them computed.")
    if isinstance(config.dataset, TextConfig):
        at_least("dataset.sequence_length", 1)
    at_least("runtime.evaluate_swa_every", 0)
    for key in ("late_phase.sigma0", "late_phase.T0"):
        at_least(key, 0)
    for key in ("optimizer.weight_decay", "late_phase.weight_decay", "runtime.evaluate_every", "runtime.checkpoint_every"):
        at_least(key, 0)
    for group, types in SCHEMAS.items():
        one_of(f"{group}.name", getattr(config, group).name, tuple(types))
        if not isinstance(getattr(config, group), types[getattr(config, group).name]):
            raise UserError(f"{group}.name can't be set by itself: choose the whole group with {group}=...")
    one_of("late_phase.running_statistics", config.late_phase.running_statistics, RUNNING_STATISTICS)
    one_of("compute.precision", config.compute.precision, ("fp32", "bf16"))
    if not 0 < config.optimizer.lr < float("inf"):
        raise UserError(f"optimizer.lr={config.optimizer.lr} would not learn: choose a number above 0.")
    at_least("late_phase.gamma_theta", 0)
    if config.max_grad_norm is not None and not 0 < config.max_grad_norm < float("inf"):
        raise UserError(f"max_grad_norm={config.max_grad_norm} is no norm to clip gradients to: choose a number above 0, or null.")
    fractions = {"optimizer.momentum": [config.optimizer.momentum]} if isinstance(config.optimizer, SGDConfig) else {}
    if isinstance(config.optimizer, AdamConfig):
        fractions = {"optimizer.betas": config.optimizer.betas}
        at_least("optimizer.eps", 0)
        if len(config.optimizer.betas) != 2:
            raise UserError(f"optimizer.betas={config.optimizer.betas} are not two: choose [0.9, 0.999].")
    for key, values in fractions.items():
        if not all(0 <= value < 1 for value in values):
            raise UserError(f"{key}={values if len(values) > 1 else values[0]} is out of range: choose from 0 to below 1.")
    seeds = {"seed": config.seed}
    if isinstance(config.dataset, ImagesConfig):
        seeds["dataset.split_seed"] = config.dataset.split_seed
    for key, seed in seeds.items():
        if not 0 <= seed < 2**63:
            raise UserError(f"{key}={seed} is out of range: choose from 0 to below 2^63.")
    if (config.runtime.threads or 1) > 1024:
        raise UserError(f"runtime.threads={config.runtime.threads} is more than a machine has cores: choose at most 1024.")
    late = config.late_phase
    if late.head and late.name in ("none", "accumulation"):
        raise UserError(
            f"late_phase.head=True is a late-phase weight, and late_phase={late.name} has none: choose late_phase=head."
        )
    if not late.head and late.name == "head":
        raise UserError(
            "late_phase.head=False leaves no late-phase weight: choose late_phase.head=true, or late_phase=accumulation."
        )
    if late.name == "accumulation" and late.gamma_theta == 0:
        raise UserError("late_phase.gamma_theta=0 leaves nothing to train after T0: choose 1 or 1/K, or other late-phase weights.")
    if late.name != "none" and (late.T0 or 0) > config.epochs:
        raise UserError(
            f"late_phase.T0={config.late_phase.T0} is after the last epoch ({config.epochs}): choose an earlier one or more epochs."
        )
    if config.late_phase.name != "none" and config.late_phase.T0 is None:
        raise UserError("late_phase.T0 is not set: choose the epoch at which the members are spawned.")
    if config.late_phase.name == "none" and config.late_phase.K != 1:
        raise UserError(f"late_phase.K={config.late_phase.K} needs late-phase weights: choose K=1 with late_phase=none.")
    if config.averaging.name != "none":
        at_least("averaging.start", 0)
        if config.averaging.start is None:
            raise UserError("averaging.start is not set: choose the number of epochs before the first that counts.")
        if config.averaging.start >= config.epochs:
            raise UserError(
                f"averaging.start={config.averaging.start} leaves none of {config.epochs} epochs to average: choose an earlier one."
            )
    if isinstance(config.averaging, SWAGConfig):
        for key, lowest in (("averaging.rank", 2), ("averaging.samples", 1), ("averaging.scale", 0)):
            at_least(key, lowest)
        if config.late_phase.name not in ("none", "accumulation"):
            raise UserError(
                f"averaging=swag is a Gaussian over the weights of one model: choose averaging=swa with "
                f"late_phase={config.late_phase.name}, or late_phase=none."
            )
    if isinstance(config.late_phase, Rank1Config) and not 0 <= config.late_phase.spread < 1:
        raise UserError(f"late_phase.spread={config.late_phase.spread} is out of range: choose from 0 to below 1.")
    if config.late_phase.name == "hypernetwork" and config.architecture.weights is not None:
        raise UserError("late_phase=hypernetwork generates all convolutions anew: leave out architecture.weights.")
    if isinstance(config.ensemble, BatchEnsembleConfig):
        at_least("ensemble.K", 1)
        one_of("ensemble.init", config.ensemble.init, ("normal", "sign"))
        if not 0 < config.ensemble.lr_factor < float("inf"):
            raise UserError(f"ensemble.lr_factor={config.ensemble.lr_factor} would not learn: choose a number above 0.")
        if config.late_phase.name not in ("none", "accumulation") or config.averaging.name == "swag":
            raise UserError(
                f"ensemble=batch_ensemble has members of its own: choose late_phase=none and averaging=none or swa, not "
                f"late_phase={config.late_phase.name} and averaging={config.averaging.name}."
            )
    if isinstance(config.optimizer, SGDConfig) and config.optimizer.nesterov and config.optimizer.momentum <= 0:
        raise UserError(f"optimizer.nesterov needs momentum, and optimizer.momentum={config.optimizer.momentum}: choose 0.9.")
    if isinstance(config.schedule, BreakpointsConfig):
        epochs, factors = config.schedule.epochs, config.schedule.factors
        rising = sorted(set(epochs)) == list(epochs)
        if len(epochs) != len(factors) or not epochs or not rising or not all(0 <= f < float("inf") for f in factors):
            raise UserError(
                f"schedule.epochs={epochs} and schedule.factors={factors} don't make a schedule: "
                "give as many factors as epochs, the epochs rising, no factor below 0."
            )
    if isinstance(config.schedule, MultistepConfig):
        at_least("schedule.warmup", 0)
    return config


def check_evaluation(config: EvaluateConfig) -> EvaluateConfig:
    """The same for an evaluation: the suite is known, and one model is named, with what goes with it.

    Raises:
        UserError: naming the key, the value and the cure.
    """
    if config.suite not in (*SUITES, "all"):
        raise UserError(f"suite={config.suite} is unknown: choose one of {', '.join(SUITES)}, all.")
    if (config.run is None) == (config.architecture.name == OWN):
        raise UserError("one model is to be named: give run=DIRECTORY, or architecture=NAME with architecture.weights=FILE.")
    if config.run is not None and config.to is not None:
        raise UserError(f"to={config.to} is for given weights: leave it out, a run's results go to its own directory.")
    if config.run is not None and config.dataset.name == OWN and config.dataset != DatasetConfig(name=OWN):
        raise UserError("keys of dataset were given, but the run's own dataset is taken as it was: add dataset=NAME.")
    if config.run is None:
        if config.seeds is not None:
            raise UserError(f"seeds={config.seeds} are of runs: leave them out, or give run=FOLDER.")
        for key, value in (("architecture.weights", config.architecture.weights), ("to", config.to)):
            if value is None:
                raise UserError(f"{key} is not set: give {key}={'FILE' if key != 'to' else 'FOLDER, for the results'}.")
        check_utf8("to", Path(config.to))
        if config.dataset.name == OWN:
            raise UserError("dataset is not chosen: add dataset=NAME, that which the weights were trained on.")
    return config
