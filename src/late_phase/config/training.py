"""The config of a run.

The dataclasses stand first in the defaults lists, so that a misspelt key is an error in an experiment file as well as on the
command line, and so that types are checked. What they hold is documented in ``configs/``, where the values are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from late_phase.config.refusals import at_least
from late_phase.support.errors import UserError

EPOCHS = {"epochs": True}
"""Metadata of a field that is a time, or a list of times, in epochs."""


def in_epochs(default: Any = MISSING) -> Any:
    """A field that is a time in epochs: ``pace`` stretches or shortens it."""
    return field(default=default, metadata=EPOCHS)


def path(default: str | None = MISSING) -> Any:
    """A field that is a path: the command line takes it as the shell hands it over, and ``~`` and ``~user`` are expanded."""
    return field(default=default, metadata={"path": True})


@dataclass
class Chosen:
    """What is chosen in a group: its keys with their types. Their values, and what they mean, are in ``configs/``.

    Attributes:
        copies: how many tensors as large as all weights it keeps while a model is trained.
    """

    copies: ClassVar[int] = 0

    name: str = MISSING

    def check(self, config: TrainConfig) -> None:
        """Refuses what can't work, by itself or together with the rest of the config.

        Raises:
            UserError: naming the key, the value and the cure.
        """


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
    epochs: int = in_epochs()
    batch_size: int = MISSING
    max_grad_norm: float | None = None
    pace: float = 1.0
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
