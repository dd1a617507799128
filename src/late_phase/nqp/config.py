"""Schema of ``configs/nqp.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, field

from late_phase.config.training import path
from late_phase.nqp.settings import Settings


@dataclass
class Regime:
    """How another curve of the second panel differs from the stated regime."""

    eta: float
    B: int
    target_norm: float


@dataclass
class Figure1Settings:
    """The figure's settings. ``configs/nqp.yaml`` has their meanings and values."""

    K: list[int] = field(default_factory=list)
    K_ensembles: list[int] = field(default_factory=list)
    others: list[Regime] = field(default_factory=list)
    workers: int = 2
    folder: str = path("results")


@dataclass
class NqpConfig(Settings):
    task: str = "measure"
    output: str = path("outputs")
    figure1: Figure1Settings = field(default_factory=Figure1Settings)
