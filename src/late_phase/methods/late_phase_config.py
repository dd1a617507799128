"""The keys of late-phase learning, and what is refused, for each choice of late-phase weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from omegaconf import MISSING

from late_phase.checks import MEMBERS, MINIBATCHES, RUNNING_STATISTICS
from late_phase.config.refusals import at_least, one_of
from late_phase.config.training import Chosen, TrainConfig, in_epochs
from late_phase.support.errors import UserError

OF_WEIGHTS = ("sigma0", "weight_decay", "copy_state")
"""Keys that act on late-phase weights only."""


@dataclass
class LatePhaseConfig(Chosen):
    """
    Attributes:
        has_weights: whether this choice has late-phase weights. If so, ``head`` can add the last layer to them.
    """

    has_weights: ClassVar[bool] = True

    K: int = 1
    T0: int | None = in_epochs(None)
    sigma0: float = 0.0
    gamma_theta: float = 1.0
    pull: float = 0.0
    outer: float = 0.0
    head: bool = False
    weight_decay: float | None = None
    theta_weight_decay: float | None = None
    copy_state: bool = True
    running_statistics: str = "mean"
    parallel_members: int = 1
    divide: str = MEMBERS

    @property
    def copies(self) -> int:
        """The momentum of θ's own steps, and θ before a step."""
        return 2 if self.outer > 0 else 0

    def check(self, config: TrainConfig) -> None:
        at_least("late_phase.K", self.K, 1)
        for key in ("sigma0", "T0", "weight_decay", "theta_weight_decay", "gamma_theta"):
            at_least(f"late_phase.{key}", getattr(self, key), 0)
        self.check_theta_weight_decay(config)
        self.check_pull_and_outer()
        self.check_parallel_members(config)
        one_of("late_phase.divide", self.divide, (MEMBERS, MINIBATCHES))
        one_of("late_phase.running_statistics", self.running_statistics, RUNNING_STATISTICS)
        if self.head and not self.has_weights:
            raise UserError(
                f"late_phase.head=True adds a late-phase weight, but late_phase={self.name} has none: choose late_phase=head."
            )
        self.check_T0(config)

    def check_theta_weight_decay(self, config: TrainConfig) -> None:
        """Raises ``UserError`` if there is no weight decay to change, or if it isn't clear which one late-phase weights keep."""
        if self.theta_weight_decay is None:
            return
        theirs, base = f"late_phase.theta_weight_decay={self.theta_weight_decay}", config.optimizer.weight_decay
        if base == 0:
            raise UserError(
                f"{theirs} can't replace optimizer.weight_decay=0: set optimizer.weight_decay above 0, or "
                "late_phase.theta_weight_decay=null."
            )
        if self.has_weights and self.weight_decay is None:
            raise UserError(
                f"{theirs} leaves open what late-phase weights get: set late_phase.weight_decay too, such as to {base}, the "
                "optimizer's."
            )

    def check_parallel_members(self, config: TrainConfig) -> None:
        """Raises ``UserError`` if so many members can't be trained in one pass."""
        at_least("late_phase.parallel_members", self.parallel_members, 1)
        if self.parallel_members == 1:
            return
        number = f"late_phase.parallel_members={self.parallel_members}"
        if self.parallel_members > self.K:
            raise UserError(f"{number} is more than late_phase.K={self.K}: choose at most K.")
        if not self.has_weights:
            raise UserError(f"{number} needs late-phase weights, but late_phase={self.name} has none: choose 1.")
        if config.max_grad_norm is not None:
            raise UserError(
                f"{number} sums the members' gradients, so max_grad_norm={config.max_grad_norm} can't clip each: choose 1, or "
                "max_grad_norm=null."
            )
        if config.compute.must_compile:
            raise UserError(f"{number} can't be compiled: choose 1, or compute.compile=false.")

    def reached(self, epochs: int) -> int | None:
        """Returns T0 in epochs, or None if the late phase doesn't begin within ``epochs``."""
        return None if self.T0 is None or epochs <= self.T0 else self.T0

    def check_T0(self, config: TrainConfig) -> None:
        """Raises ``UserError`` if T0 is not set, or is after the end of training."""
        if self.T0 is None:
            raise UserError("late_phase.T0 is not set: choose the epoch at which the members are spawned.")
        if config.epochs < self.T0:
            raise UserError(
                f"late_phase.T0={self.T0} is after the last epoch (epochs={config.epochs}): lower late_phase.T0, or raise epochs."
            )

    def check_pull_and_outer(self) -> None:
        """Raises ``UserError`` if one of them is out of range or has nothing to act on."""
        if not 0 <= self.pull <= 1:
            raise UserError(f"late_phase.pull={self.pull} is out of range: choose from 0 to 1.")
        if not 0 <= self.outer < 1:
            raise UserError(f"late_phase.outer={self.outer} is out of range: choose from 0 to below 1.")
        if self.pull > 0 and not self.has_weights:
            raise UserError(f"late_phase.pull={self.pull} needs late-phase weights, but late_phase={self.name} has none: choose 0.")
        if self.outer > 0 and self.gamma_theta == 0:
            raise UserError(
                f"late_phase.outer={self.outer} needs base weights that move: choose 0, or a late_phase.gamma_theta above 0."
            )


@dataclass
class NoneConfig(LatePhaseConfig):
    has_weights: ClassVar[bool] = False
    unread: ClassVar[tuple[str, ...]] = (*OF_WEIGHTS, "T0", "gamma_theta", "theta_weight_decay")

    def reached(self, epochs: int) -> None:
        return None

    def check_T0(self, config: TrainConfig) -> None:
        if self.K != 1:
            raise UserError(f"late_phase.K={self.K} needs late-phase weights: choose K=1 with late_phase=none.")
        if self.outer > 0:
            raise UserError(f"late_phase.outer={self.outer} needs a late phase, but late_phase=none has none: choose 0.")


@dataclass
class AccumulationConfig(LatePhaseConfig):
    has_weights: ClassVar[bool] = False
    unread: ClassVar[tuple[str, ...]] = OF_WEIGHTS

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        if self.gamma_theta == 0:
            raise UserError(
                f"late_phase.gamma_theta=0 leaves nothing to train after T0: choose late_phase.gamma_theta=1, or {1 / self.K:g} "
                "(1/K), or a choice with late-phase weights, such as late_phase=batchnorm."
            )


@dataclass
class HeadConfig(LatePhaseConfig):
    def check(self, config: TrainConfig) -> None:
        if not self.head:
            raise UserError(
                "late_phase.head=False leaves no late-phase weight: choose late_phase.head=true, or late_phase=accumulation."
            )
        super().check(config)


@dataclass
class SelectConfig(LatePhaseConfig):
    select: list[str] = MISSING

    def check(self, config: TrainConfig) -> None:
        if not self.select and not self.head:
            raise UserError("late_phase.select=[] leaves no late-phase weight: name some, such as ['*bn*', 'type:Linear'].")
        super().check(config)


@dataclass
class HypernetworkConfig(LatePhaseConfig):
    def check(self, config: TrainConfig) -> None:
        super().check(config)
        if config.architecture.weights is not None:
            raise UserError("late_phase=hypernetwork generates new weights for all convolutions: leave out architecture.weights.")


@dataclass
class Rank1Config(LatePhaseConfig):
    spread: float = 0.0
    matrices: str = "*"

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        if not 0 <= self.spread < 1:
            raise UserError(f"late_phase.spread={self.spread} is out of range: choose from 0 to below 1.")
