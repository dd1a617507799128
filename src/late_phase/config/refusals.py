"""What checks of configs have in common."""

from __future__ import annotations

from collections.abc import Collection

from late_phase.support.errors import UserError


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
