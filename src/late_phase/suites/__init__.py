"""Suites: what trained models are evaluated by, one function each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from late_phase.support.lazy import Lazy

if TYPE_CHECKING:
    from late_phase.suites.config import EvaluateConfig
    from late_phase.tasks.task import TrainedModels

    Compute = Callable[[TrainedModels, EvaluateConfig], tuple[dict[str, Any], dict[str, Any]]]


class Suite(NamedTuple):
    """
    Attributes:
        compute: a number for each of what predicts and each metric, and of how much they are, such as ``{"images": 10000}``: what
            the models' task calls its ``amount()``. It raises ``UserError``, or ``ValueError``, where they are not to be had.
        tasks: kinds of task that it is for; empty for all kinds.
        elsewhere: whether it means something on another dataset than the one that the models were trained on.
    """

    compute: Compute
    tasks: tuple[str, ...]
    elsewhere: bool


SUITES: dict[str, Suite] = {}
"""Name -> suite, in the order of ``suite=all``."""


def register(name: str, compute: Compute, tasks: tuple[str, ...] = (), elsewhere: bool = False) -> None:
    """Makes ``suite=name`` a choice; see :class:`Suite`.

    Raises:
        ValueError: the name is taken.
    """
    if name in (*SUITES, "all"):
        raise ValueError(f"suite={name} is there already: choose another name.")
    SUITES[name] = Suite(compute, tasks, elsewhere)


register("accuracy", Lazy("late_phase.suites.evaluate.accuracy"), elsewhere=True)
register("calibration", Lazy("late_phase.suites.images.calibration"), ("images",), elsewhere=True)
register("ood", Lazy("late_phase.suites.images.ood"), ("images",))
register("corruption", Lazy("late_phase.suites.images.corruption"), ("images",))
register("flatness", Lazy("late_phase.suites.images.flatness"), ("images",))
