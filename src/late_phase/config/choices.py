"""What can be chosen in each group of the config.

Whoever has a choice registers it: a module of this package for its own, a package of the user's for more
(``[project.entry-points.late_phase]``, see CONTRIBUTING.md). Nothing here imports torch, nor does whoever registers: a command
line is checked without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

from late_phase.config.training import Chosen


class Choice(NamedTuple):
    """The keys of a choice, and what makes the thing itself."""

    config: type[Chosen]
    build: Callable[..., Any]


CHOICES: dict[str, dict[str, Choice]] = {
    group: {} for group in ("dataset", "architecture", "ensemble", "late_phase", "averaging", "optimizer", "schedule", "logger")
}
"""Group -> name -> choice. The dataclasses of a group are subclasses of one, and its ``build`` is called in one way:

dataset: ``data.ImagesConfig``, ``data.TextConfig`` or that of another kind of task; called with the keys that this doesn't have.
architecture: ``architectures.ImageArchitectureConfig``, or another ``ArchitectureConfig``; with sizes, and keys as above.
late_phase: ``methods.late_phase.LatePhaseConfig``; with the run's config. It makes a ``methods.interface.Method``.
averaging: ``methods.swa.AveragingConfig``; likewise.
ensemble: any ``Chosen``; likewise.
optimizer: ``optimization.optimizers.OptimizerConfig``; with torch's parameter groups, and all keys but the name.
schedule: any ``Chosen``; with these keys. It makes an ``optimization.schedules.Schedule``.
logger: any ``Chosen``; with the run's directory, what its config has to show, and these keys. It makes a ``runs.loggers.Logger``.
"""


def register(group: str, name: str, config: type[Chosen], build: Callable[..., Any]) -> None:
    """Makes ``group=name`` a choice.

    Args:
        config: the keys, see :data:`CHOICES`; their values are in ``configs/<group>/<name>.yaml``.
        build: makes the thing, see :data:`CHOICES`; a :class:`late_phase.support.lazy.Lazy` where its module imports torch.

    Raises:
        ValueError: there is no such group, or the name is taken.
    """
    if group not in CHOICES:
        raise ValueError(f"{group} is no group of the config: choose one of {', '.join(CHOICES)}.")
    if name in CHOICES[group]:
        raise ValueError(f"{group}={name} is there already: choose another name.")
    CHOICES[group][name] = Choice(config, build)


def build(group: str, name: str, *arguments: Any, **options: Any) -> Any:
    """What is chosen by ``group=name``."""
    return CHOICES[group][name].build(*arguments, **options)


def options(chosen: Any, base: type | None = None) -> dict[str, Any]:
    """What is chosen, but for its name and the keys of ``base``: keyword arguments for whom it configures."""
    common = {"name"} | set(base.__dataclass_fields__ if base else ())
    return {key: value for key, value in asdict(chosen).items() if key not in common}
