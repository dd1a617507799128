"""The config of a run.

The dataclasses come first in the defaults lists. Hydra then checks types, and refuses misspelt keys in experiment files and on the
command line. The files in ``configs/`` hold the values and say what each key means.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING

from late_phase.config.refusals import at_least, one_of
from late_phase.support.errors import UserError

if TYPE_CHECKING:
    import torch

EPOCHS = {"epochs": True}
"""Metadata of a field that holds a time in epochs, or a list of such times."""


def in_epochs(default: Any = MISSING) -> Any:
    """Returns a field for a time in epochs, which ``pace`` stretches or shortens."""
    return field(default=default, metadata=EPOCHS)


def path(default: str | None = MISSING) -> Any:
    """Returns a field for a path. The command line reads it as the shell passes it, and expands ``~`` and ``~user``."""
    return field(default=default, metadata={"path": True})


@dataclass
class Chosen:
    """The keys of a choice in a group, with their types. Their values and meanings are in ``configs/``.

    Attributes:
        copies: how many tensors as large as all weights the choice keeps during training.
        unread: keys that the choice has but doesn't read. An experiment may leave a value in them; the command line may not.
    """

    copies: ClassVar[int] = 0
    unread: ClassVar[tuple[str, ...]] = ()

    name: str = MISSING

    def check(self, config: TrainConfig) -> None:
        """Refuses values that can't work, alone or together with the rest of the config.

        Raises:
            UserError: names the key, the value and the cure.
        """


@dataclass
class ComputeConfig:
    precision: str = "fp32"
    compile: Any = False  # a bool or a text

    def check(self) -> None:
        """Raises ``UserError`` if a value is unknown."""
        one_of("compute.precision", self.precision, ("fp32", "tf32", "bf16", "auto"))
        if not isinstance(self.compile, bool) and self.compile not in ("reduce-overhead", "auto"):
            raise UserError(f"compute.compile={self.compile} is unknown: choose one of false, true, reduce-overhead, auto.")

    @property
    def must_compile(self) -> bool:
        """Whether the config demands a compiled model."""
        return self.compile not in (False, "auto")


@dataclass
class MachineConfig:
    device: str = "auto"
    threads: int | None = None

    def check(self) -> None:
        """Refuses a number of threads that no machine can use.

        Raises:
            UserError: ``threads`` is not from 1 to 1024.
        """
        at_least("runtime.threads", self.threads, 1)
        if (self.threads or 1) > 1024:
            raise UserError(f"runtime.threads={self.threads} is out of range: choose at most 1024 threads.")


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
    patience: int | None = in_epochs(None)
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

    def precision_on(self, device: torch.device) -> str:
        """Returns the precision that the run computes in on a device. See :func:`late_phase.support.devices.precision_on`."""
        from late_phase.support.devices import precision_on  # imported here, because a command line is checked without torch

        return precision_on(device, self.compute.precision, self.architecture.bf16_pays)
