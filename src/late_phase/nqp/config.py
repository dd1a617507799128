"""Schema of ``configs/nqp.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, field

from late_phase.nqp.figure import Figure1Settings
from late_phase.nqp.settings import Settings
from late_phase.training.config import path


@dataclass
class NqpConfig(Settings):
    task: str = "measure"
    output: str = path("outputs")
    figure1: Figure1Settings = field(default_factory=Figure1Settings)
