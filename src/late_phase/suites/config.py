"""The config of an evaluation, and its checks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from late_phase.architectures import ArchitectureConfig
from late_phase.config.training import MachineConfig, path
from late_phase.data import DatasetConfig
from late_phase.suites import SUITES
from late_phase.support.errors import UserError
from late_phase.support.paths import check_utf8

OWN = "own"
"""Stands for the dataset that a run was trained on, and for the architecture of its model."""


@dataclass
class FlatnessConfig:
    sigmas: list[float] = MISSING
    draws: int = MISSING

    def check(self) -> None:
        """Checks the grid and the number of draws.

        Raises:
            UserError: one of them is out of range.
        """
        if not self.sigmas or not all(0 <= sigma < math.inf for sigma in self.sigmas) or self.draws < 2:
            raise UserError(
                f"flatness.sigmas={self.sigmas} and flatness.draws={self.draws} are out of range: choose finite numbers "
                "of at least 0, and at least 2 draws."
            )


@dataclass
class EvaluateConfig:
    suite: str = MISSING
    run: str | None = path(None)
    seeds: list[int] | None = None
    to: str | None = path(None)
    dataset: DatasetConfig = field(default_factory=lambda: DatasetConfig(name=OWN))
    architecture: ArchitectureConfig = field(default_factory=lambda: ArchitectureConfig(name=OWN))
    ood: list[str] | None = None
    root: str = path()
    flatness: FlatnessConfig = field(default_factory=FlatnessConfig)
    runtime: MachineConfig = field(default_factory=MachineConfig)


def check(config: EvaluateConfig) -> EvaluateConfig:
    """Returns the config after a check: the suite is known, and exactly one model is named, with what goes with it.

    Raises:
        UserError: a check fails; the message names the key, the value and the cure.
    """
    config.runtime.check()
    if config.suite not in (*SUITES, "all"):
        raise UserError(f"suite={config.suite} is unknown: choose one of {', '.join(SUITES)}, all.")
    if (config.run is None) == (config.architecture.name == OWN):
        raise UserError("exactly one model must be named: give run=DIRECTORY, or architecture=NAME with architecture.weights=FILE.")
    if config.run is not None and config.to is not None:
        raise UserError(f"to={config.to} is only for given weights: leave it out, as a run's results go to its own directory.")
    if config.run is not None and config.dataset.name == OWN and config.dataset != DatasetConfig(name=OWN):
        own = DatasetConfig(name=OWN)
        key = next(key for key in vars(own) if getattr(config.dataset, key) != getattr(own, key))
        raise UserError(
            f"dataset.{key}={getattr(config.dataset, key)} can't change the run's own dataset: add dataset=NAME, or leave it out."
        )
    if config.run is None:
        if config.seeds is not None:
            raise UserError(f"seeds={config.seeds} are only for runs: leave them out, or give run=FOLDER.")
        for key, value in (("architecture.weights", config.architecture.weights), ("to", config.to)):
            if value is None:
                raise UserError(f"{key} is not set: give {key}={'FILE' if key != 'to' else 'FOLDER, for the results'}.")
        check_utf8("to", Path(config.to))
        if config.dataset.name == OWN:
            raise UserError("dataset is not chosen: add dataset=NAME, the dataset that the weights were trained on.")
    return config
