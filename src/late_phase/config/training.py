"""The config of a run.

The dataclasses stand first in the defaults lists, so that a misspelt key is an error in an experiment file as well as on the
command line, and so that types are checked. What they hold is documented in ``configs/``, where the values are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from late_phase.config.choices import CHOICES, Chosen, at_least, one_of, seed
from late_phase.support.errors import UserError


@dataclass
class ComputeConfig:
    precision: str = "fp32"
    compile: bool = False


@dataclass
class MachineConfig:
    device: str = "auto"
    threads: int | None = None

    def check(self) -> None:
        """Raises ``UserError`` for a number of threads that can't be."""
        at_least("runtime.threads", self.threads, 1)
        if (self.threads or 1) > 1024:
            raise UserError(f"runtime.threads={self.threads} is more than a machine has cores: choose at most 1024.")


@dataclass
class RuntimeConfig(MachineConfig):
    progress: bool = True
    evaluate_every: int = 1
    evaluate_swa_every: int = 0
    checkpoint_every: int = 1

    def check(self) -> None:
        super().check()
        for key in ("evaluate_every", "evaluate_swa_every", "checkpoint_every"):
            at_least(f"runtime.{key}", getattr(self, key), 0)


@dataclass
class TrainConfig:
    seed: int = 0
    epochs: int = MISSING
    batch_size: int = MISSING
    max_grad_norm: float | None = None
    dataset: Chosen = MISSING
    architecture: Chosen = MISSING
    ensemble: Chosen = MISSING
    late_phase: Chosen = MISSING
    averaging: Chosen = MISSING
    optimizer: Chosen = MISSING
    schedule: Chosen = MISSING
    logger: Chosen = MISSING
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def check(config: TrainConfig) -> TrainConfig:
    """Refuses what can't work, before any work; what depends on the data is checked when the data is there.

    Raises:
        UserError: naming the key, the value and the cure.
    """
    for group, choices in CHOICES.items():
        chosen = getattr(config, group)
        one_of(f"{group}.name", chosen.name, tuple(choices))
        if not isinstance(chosen, choices[chosen.name].config):
            raise UserError(f"{group}.name can't be set by itself: choose the whole group with {group}=...")
    at_least("epochs", config.epochs, 1)
    at_least("batch_size", config.batch_size, 1)
    seed("seed", config.seed)
    one_of("compute.precision", config.compute.precision, ("fp32", "bf16"))
    if config.max_grad_norm is not None and not 0 < config.max_grad_norm < float("inf"):
        raise UserError(f"max_grad_norm={config.max_grad_norm} is no norm to clip gradients to: choose a number above 0, or null.")
    config.runtime.check()
    for group in CHOICES:
        getattr(config, group).check(config)
    return config


def copies(config: TrainConfig) -> int:
    """How often training holds what is as large as the weights: weights, gradients, the single model, and what the choices keep,
    such as the optimizer's state and averages."""
    return 3 + sum(getattr(config, group).copies for group in CHOICES)
