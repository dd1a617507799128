"""LoRA factors as late-phase weights."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from late_phase.config.refusals import above_0, at_least
from late_phase.config.training import TrainConfig
from late_phase.methods.late_phase import LatePhaseConfig, register_weights


@dataclass
class LoRAConfig(LatePhaseConfig):
    rank: int = MISSING
    alpha: float = MISSING
    matrices: str = "*"

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        at_least("late_phase.rank", self.rank, 1)
        above_0("late_phase.alpha", self.alpha)


register_weights("lora", LoRAConfig, "late_phase.layers.lora.lora", prepare="late_phase.layers.lora.parametrize_lora")
