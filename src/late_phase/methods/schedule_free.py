"""Schedule-free optimizers (Defazio et al., 2024), from the package ``schedulefree``.

Such an optimizer has two modes. In train mode the model holds y, the weights at which gradients are taken. In eval mode it holds x,
the average that predicts. Here each epoch begins in train mode and ends in eval mode, so models are measured and exported, and
members are spawned, in eval mode. A checkpoint within an epoch is in train mode.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING

from late_phase.config.choices import register
from late_phase.config.refusals import at_least
from late_phase.config.training import TrainConfig
from late_phase.methods.interface import ALWAYS, Method, Trained, due
from late_phase.optimization.optimizers import AdamWConfig, OptimizerConfig, with_decay
from late_phase.support.errors import UserError
from late_phase.support.lazy import Lazy

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

ADAMW = Lazy("schedulefree.AdamWScheduleFree")


@dataclass
class ScheduleFreeConfig(OptimizerConfig):
    warmup_steps: int = MISSING

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        at_least("optimizer.warmup_steps", self.warmup_steps, 0)
        if config.schedule.name != "constant":
            raise UserError(
                f"schedule.name={config.schedule.name} changes the learning rate, but optimizer={self.name} averages instead: "
                "choose schedule=constant."
            )
        if config.averaging.name != "none":
            raise UserError(
                f"averaging={config.averaging.name} would average what optimizer={self.name} averages already: "
                "choose averaging=none."
            )
        for key in ("pull", "outer"):
            if (value := getattr(config.late_phase, key)) > 0:
                raise UserError(f"late_phase.{key}={value} would change weights that optimizer={self.name} averages: choose 0.")
        if find_spec("schedulefree") is None:
            raise UserError(
                f"optimizer={self.name} needs the package schedulefree: run `pip install 'late-phase[schedule-free]'` or choose "
                "optimizer=sgd."
            )


@dataclass
class ScheduleFreeSGDConfig(ScheduleFreeConfig):
    momentum: float = MISSING

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        if not 0 < self.momentum < 1:
            raise UserError(f"optimizer.momentum={self.momentum} is out of range: choose from above 0 to below 1.")


@dataclass
class ScheduleFreeAdamWConfig(ScheduleFreeConfig, AdamWConfig):
    copies: ClassVar[int] = 2

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        if self.betas[0] == 0:
            raise UserError(f"optimizer.betas={self.betas} begins with 0, but the first is needed: choose one such as 0.9.")


def adamw(groups: Iterable[dict[str, Any]], decay_vectors: bool, **options: Any) -> Optimizer:
    """Returns the package's AdamW. See :func:`late_phase.optimization.optimizers.with_decay`."""
    return ADAMW(with_decay(groups, decay_vectors), **options)


class ScheduleFree(Method):
    """Switches the modes of a schedule-free optimizer, and estimates running statistics for the weights that predict.

    In training, running statistics belong to y. So they are estimated again for x, for each member, whenever the single model is
    measured and at the end. Members that share statistics share the mean of their own. Other optimizers have no modes.
    """

    def before_epoch(self, trained: Trained, epoch: int) -> None:
        if has_modes(trained):
            trained.late.train()

    def after_epoch(self, trained: Trained, epoch: int) -> None:
        if has_modes(trained):
            trained.late.eval()
            if epoch + 1 == self.config.epochs or due(epoch + 1, self.config.runtime.evaluate_every):
                estimate_running_statistics(trained)


def has_modes(trained: Trained) -> bool:
    return all(hasattr(trained.late.optimizer, mode) for mode in ("train", "eval"))


def estimate_running_statistics(trained: Trained) -> None:
    """Estimates the running statistics of the live model, and of each member, for their present weights."""
    from late_phase.running_statistics import recompute_for_each
    from late_phase.weights import load

    late = trained.late
    members = late.members or {}
    phi: list[dict[str, Tensor]] = [{name: members[name][k] for name in late.phi} for k in range(late.K)] if members else [{}]
    with trained.autocast():
        statistics = recompute_for_each(copy.deepcopy(late.model), phi, trained.spare_batches)
    shared = {name: values for name, values in statistics.items() if name not in members}
    for k in range(late.K) if members else ():
        with late.member(k) as model:
            load(model, {name: values[k] for name, values in statistics.items() if name not in shared})
    load(late.model, {name: values.float().mean(0) for name, values in shared.items()})


ALWAYS["schedule_free"] = ScheduleFree
register("optimizer", "schedule_free", ScheduleFreeSGDConfig, Lazy("schedulefree.SGDScheduleFree"))
register("optimizer", "schedule_free_adamw", ScheduleFreeAdamWConfig, Lazy("late_phase.methods.schedule_free.adamw"))
