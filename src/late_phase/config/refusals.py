"""Checks that several configs share."""

from __future__ import annotations

from collections.abc import Collection

from late_phase.support.errors import UserError


def at_least(key: str, value: float | None, lowest: float) -> None:
    """Refuses numbers below ``lowest``, infinity and nan. None passes.

    Raises:
        UserError: ``value`` is such a number.
    """
    if value is not None and not lowest <= value < float("inf"):
        raise UserError(f"{key}={value} is out of range: choose a number of at least {lowest}.")


def one_of(key: str, value: str, choices: Collection[str]) -> None:
    """Refuses values that are not in ``choices``.

    Raises:
        UserError: ``value`` is not one of them.
    """
    if value not in choices:
        raise UserError(f"{key}={value} is unknown: choose one of {', '.join(choices)}.")


def above_0(key: str, value: float) -> None:
    """Refuses numbers that are not positive and finite.

    Raises:
        UserError: ``value`` is such a number.
    """
    if not 0 < value < float("inf"):
        raise UserError(f"{key}={value} is out of range: choose a number above 0.")


def seed(key: str, value: int) -> None:
    """Refuses numbers that can't seed a random generator.

    Raises:
        UserError: ``value`` is not from 0 to below 2^63.
    """
    if not 0 <= value < 2**63:
        raise UserError(f"{key}={value} is out of range: choose from 0 to below 2^63.")
