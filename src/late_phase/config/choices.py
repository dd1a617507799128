"""The choices of each group of the config.

The module that has a choice registers it. Packages of users register more choices (``[project.entry-points.late_phase]``, see
CONTRIBUTING.md). Neither this module nor the modules that register import torch: a command line is checked without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

from late_phase.config.training import Chosen


class Choice(NamedTuple):
    """The keys of a choice, and the function that builds what is chosen."""

    config: type[Chosen]
    build: Callable[..., Any]


CHOICES: dict[str, dict[str, Choice]] = {
    group: {} for group in ("dataset", "architecture", "ensemble", "late_phase", "averaging", "optimizer", "schedule", "logger")
}
"""Group -> name -> choice.

In each group, all dataclasses have one base class, and ``build`` has one signature:

dataset: base ``data.ImagesConfig``, ``data.TextConfig`` or that of another kind of task; build gets the keys that the base lacks.
architecture: base ``architectures.ImageArchitectureConfig`` or another ``ArchitectureConfig``; build gets sizes, and keys as above.
late_phase: base ``methods.late_phase.LatePhaseConfig``; build gets the run's config and returns a ``methods.interface.Method``.
averaging: base ``methods.averaging.AveragingConfig``; build as for late_phase.
ensemble: base ``Chosen``; build as for late_phase.
optimizer: base ``optimization.optimizers.OptimizerConfig``; build gets torch's parameter groups and all keys except the name.
schedule: base ``Chosen``; build gets all keys except the name and returns an ``optimization.schedules.Schedule``.
logger: base ``Chosen``; build gets the run's directory, the part of its config to show, and all keys except the name. It returns a
``runs.loggers.Logger``.
"""


def register(group: str, name: str, config: type[Chosen], build: Callable[..., Any]) -> None:
    """Makes ``group=name`` a choice.

    Args:
        config: the dataclass of keys, see :data:`CHOICES`. Their values are in ``configs/<group>/<name>.yaml``.
        build: builds what is chosen, see :data:`CHOICES`; a :class:`late_phase.support.lazy.Lazy` if its module imports torch.

    Raises:
        ValueError: there is no such group, or the name is taken.
    """
    if group not in CHOICES:
        raise ValueError(f"{group} is not a group of the config: choose one of {', '.join(CHOICES)}.")
    if name in CHOICES[group]:
        raise ValueError(f"{group}={name} already exists: choose another name.")
    CHOICES[group][name] = Choice(config, build)


def build(group: str, name: str, *arguments: Any, **options: Any) -> Any:
    """Builds what ``group=name`` chooses."""
    return CHOICES[group][name].build(*arguments, **options)


def options(chosen: Any, base: type | None = None) -> dict[str, Any]:
    """Returns the keys of a choice and their values, as keyword arguments, without its name and the keys of ``base``."""
    common = {"name"} | set(base.__dataclass_fields__ if base else ())
    return {key: value for key, value in asdict(chosen).items() if key not in common}
