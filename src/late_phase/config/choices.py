"""What can be chosen in each group of the config.

Whoever has a choice registers it: a module of this package for its own, a package of the user's for more
(``[project.entry-points.late_phase]``, see CONTRIBUTING.md). Nothing here imports torch, nor does whoever registers: a command
line is checked without it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from omegaconf import MISSING

from late_phase.support.errors import UserError

if TYPE_CHECKING:
    from late_phase.config.training import TrainConfig


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


class Choice(NamedTuple):
    """The keys of a choice, and what makes the thing itself. What that is called with is the group's own."""

    config: type[Chosen]
    build: Callable[..., Any]


CHOICES: dict[str, dict[str, Choice]] = {
    group: {} for group in ("dataset", "architecture", "ensemble", "late_phase", "averaging", "optimizer", "schedule", "logger")
}
"""Group -> name -> choice."""


def register(group: str, name: str, config: type[Chosen], build: Callable[..., Any]) -> None:
    """Makes ``group=name`` a choice.

    Args:
        build: makes the thing; a :class:`late_phase.support.lazy.Lazy` where its module imports torch.

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


def path(default: str | None = MISSING) -> Any:
    """A field that is a path: the command line takes it as the shell hands it over, and ``~`` and ``~user`` are expanded."""
    return field(default=default, metadata={"path": True})


def options(chosen: Any, base: type | None = None) -> dict[str, Any]:
    """What is chosen, but for its name and the keys of ``base``: keyword arguments for whom it configures."""
    common = {"name"} | set(base.__dataclass_fields__ if base else ())
    return {key: value for key, value in asdict(chosen).items() if key not in common}


# What checks have in common.


def at_least(key: str, value: float | None, lowest: float) -> None:
    """Refuses numbers below ``lowest``, infinity and nan.

    Raises:
        UserError: ``value`` is one.
    """
    if value is not None and not lowest <= value < float("inf"):
        raise UserError(f"{key}={value} is out of range: choose a number of at least {lowest}.")


def one_of(key: str, value: str, choices: Collection[str]) -> None:
    """Refuses others than ``choices``.

    Raises:
        UserError: ``value`` is another.
    """
    if value not in choices:
        raise UserError(f"{key}={value} is unknown: choose one of {', '.join(choices)}.")


def above_0(key: str, value: float) -> None:
    """Refuses rates that would not learn.

    Raises:
        UserError: ``value`` is one.
    """
    if not 0 < value < float("inf"):
        raise UserError(f"{key}={value} would not learn: choose a number above 0.")


def seed(key: str, value: int) -> None:
    """Refuses what can't be the seed of a generator.

    Raises:
        UserError: ``value`` can't.
    """
    if not 0 <= value < 2**63:
        raise UserError(f"{key}={value} is out of range: choose from 0 to below 2^63.")
