"""Optimizers by name. They use torch's fused implementations, which update all parameters in one call, on every device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING

from late_phase.config import choices
from late_phase.config.choices import register
from late_phase.config.refusals import above_0, at_least
from late_phase.config.training import Chosen
from late_phase.support.errors import UserError
from late_phase.support.lazy import Lazy

if TYPE_CHECKING:
    import torch
    from torch import nn

    from late_phase.config.training import TrainConfig
    from late_phase.selection import Selection


@dataclass
class OptimizerConfig(Chosen):
    copies: ClassVar[int] = 1

    lr: float = MISSING
    weight_decay: float = 0.0

    def check(self, config: TrainConfig) -> None:
        above_0("optimizer.lr", self.lr)
        at_least("optimizer.weight_decay", self.weight_decay, 0)


@dataclass
class SGDConfig(OptimizerConfig):
    momentum: float = 0.0
    nesterov: bool = False

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        if not 0 <= self.momentum < 1:
            raise UserError(f"optimizer.momentum={self.momentum} is out of range: choose from 0 to below 1.")
        if self.nesterov and self.momentum <= 0:
            raise UserError(f"optimizer.nesterov needs momentum, but optimizer.momentum={self.momentum}: choose one such as 0.9.")


@dataclass
class AdamConfig(OptimizerConfig):
    copies: ClassVar[int] = 2

    betas: list[float] = MISSING
    eps: float = MISSING

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        at_least("optimizer.eps", self.eps, 0)
        if len(self.betas) != 2:
            raise UserError(f"optimizer.betas={self.betas} must be two numbers: choose two such as [0.9, 0.999].")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optimizer.betas={self.betas} is out of range: choose from 0 to below 1.")


@dataclass
class AdamWConfig(AdamConfig):
    """Also of schedule-free AdamW."""

    decay_vectors: bool = True


register("optimizer", "sgd", SGDConfig, partial(Lazy("torch.optim.SGD"), fused=True))
register("optimizer", "adam", AdamConfig, partial(Lazy("torch.optim.Adam"), fused=True))
register("optimizer", "adamw", AdamWConfig, partial(Lazy("late_phase.optimization.optimizers.adamw"), fused=True))


def adamw(groups: Iterable[dict[str, Any]], decay_vectors: bool, **options: Any) -> torch.optim.AdamW:
    """Returns torch's AdamW (Loshchilov & Hutter, 2019).

    Args:
        groups, decay_vectors: see :func:`with_decay`.
    """
    import torch  # imported here, because a command line is checked without it

    return torch.optim.AdamW(with_decay(groups, decay_vectors), **options)


def with_decay(groups: Iterable[dict[str, Any]], vectors: bool) -> list[dict[str, Any]]:
    """Returns torch's parameter groups with weight decay for the parameters that shall have it.

    Args:
        vectors: whether parameters with fewer than two dimensions, such as biases and scales, have weight decay. If not, they get
            groups of their own, and keep that weight decay of 0 unless ``late_phase.weight_decay`` gives them another.
    """
    if vectors:
        return list(groups)
    shares = []
    for group in groups:
        decayed = [parameter for parameter in group["params"] if parameter.dim() > 1]
        others = [parameter for parameter in group["params"] if parameter.dim() < 2]
        shares += [group | {"params": decayed}, group | {"params": others, "weight_decay": 0.0}]
    return [group for group in shares if group["params"]]


def build(
    name: str, model: nn.Module, exceptions: Iterable[tuple[Selection, dict[str, float]]] = (), **options: Any
) -> torch.optim.Optimizer:
    """Returns the optimizer ``name`` with ``options`` such as ``lr`` and ``weight_decay``, as torch names them.

    Each parameter group stores its learning rate as ``base_lr``, which schedules multiply by their factor.

    Args:
        exceptions: disjoint selections of parameters, each with the options that replace ``options`` throughout training.
    """
    parameters = dict(model.named_parameters())
    groups = []
    for select, own in exceptions:
        groups.append({"params": [parameters.pop(name) for name in select.names(model)], "fixed": tuple(own), **own})
    groups.insert(0, {"params": list(parameters.values())})
    for group in groups:
        group["base_lr"] = group.get("lr", options["lr"])
    return choices.build("optimizer", name, groups, **options)
