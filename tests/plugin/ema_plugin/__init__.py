"""A plug-in of late_phase: a method, an architecture and a suite, as a user adds them to an installed late_phase."""

from __future__ import annotations

from ema_plugin.ema import EMA, EMAConfig
from late_phase import suites
from late_phase.architectures import ImageArchitectureConfig
from late_phase.config.choices import register
from late_phase.support.lazy import Lazy

register("averaging", "ema", EMAConfig, EMA)
register("architecture", "two_layers", ImageArchitectureConfig, Lazy("ema_plugin.two_layers.build"))
suites.register("confidence", Lazy("ema_plugin.confidence.confidence"), tasks=("images",))
