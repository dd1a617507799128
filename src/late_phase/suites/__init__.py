"""Suites, which evaluate trained models: one function each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from late_phase.support.lazy import Lazy

if TYPE_CHECKING:
    from late_phase.suites.config import EvaluateConfig
    from late_phase.tasks.task import TrainedModels

    Compute = Callable[[TrainedModels, EvaluateConfig], tuple[dict[str, Any], dict[str, Any]]]


class Suite(NamedTuple):
    """A suite.

    Attributes:
        compute: returns a number for each predictor and metric, and the amount of data, such as ``{"images": 10000}``, which the
            models' task calls its ``amount()``. It raises ``UserError`` or ``ValueError`` if the numbers can't be computed.
        tasks: kinds of task that it is for; empty for all kinds.
        elsewhere: whether it makes sense on another dataset than the one that the models were trained on.
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
        raise ValueError(f"suite={name} already exists: choose another name.")
    SUITES[name] = Suite(compute, tasks, elsewhere)


register("accuracy", Lazy("late_phase.suites.evaluate.accuracy"), elsewhere=True)
register("calibration", Lazy("late_phase.suites.images.calibration"), ("images",), elsewhere=True)
register("ood", Lazy("late_phase.suites.images.ood"), ("images",))
register("corruption", Lazy("late_phase.suites.images.corruption"), ("images",))
register("flatness", Lazy("late_phase.suites.images.flatness"), ("images",))
