"""A plug-in of late_phase: a method, architectures, an optimizer and a suite, as a user adds them to an installed late_phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from late_phase import suites
from late_phase.architectures import ArchitectureConfig, ImageArchitectureConfig
from late_phase.config.choices import register
from late_phase.optimization.optimizers import OptimizerConfig
from late_phase.support.lazy import Lazy
from midrange_plugin.midrange import Midrange, MidrangeConfig


@dataclass
class GRUConfig(ArchitectureConfig):
    task: ClassVar[str] = "text"

    width: int = 8


register("averaging", "midrange", MidrangeConfig, Midrange)
register("architecture", "two_layers", ImageArchitectureConfig, Lazy("midrange_plugin.two_layers.build"))
register("architecture", "gru", GRUConfig, Lazy("midrange_plugin.gru.GRU"))
register("optimizer", "radam", OptimizerConfig, Lazy("torch.optim.RAdam"))
suites.register("confidence", Lazy("midrange_plugin.confidence.confidence"), tasks=("images",))
