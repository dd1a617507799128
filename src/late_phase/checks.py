"""Checks of LatePhase's arguments. They don't need torch, because a command line is checked before torch is imported."""

from __future__ import annotations

import operator
from typing import Any

RUNNING_STATISTICS = ("mean", "folded", "recompute")
"""Where the single model's running statistics can come from, see ``LatePhase.average``."""


MINIBATCHES, MEMBERS = "minibatches", "members"
"""What several processes divide among them after T0, see ``LatePhase``."""


def number_of_members(K: Any) -> int:
    """Returns K as Python's integer. K may be an integer of another library, such as NumPy.

    Raises:
        ValueError: K is not an integer, or is below 1.
    """
    if isinstance(K, bool) or not hasattr(K, "__index__") or operator.index(K) < 1:
        raise ValueError(f"K={K} is not a number of members: choose an integer of at least 1.")
    return operator.index(K)


def amount(value: Any, refusal: str) -> float:
    """Returns ``value``, which is σ0 or γ_θ, as Python's float.

    Raises:
        ValueError: the value is infinite, not a number or below 0. The message is ``refusal``.
    """
    if not 0 <= value < float("inf"):
        raise ValueError(refusal)
    return float(value)


def share(value: Any, name: str, whole: bool) -> float:
    """Returns ``value``, which is ``pull`` or ``outer``, as Python's float.

    Args:
        name: the argument's name.
        whole: whether the value may be 1.

    Raises:
        ValueError: the value is not a number from 0 to 1.
    """
    if not (0 <= value < 1 or (whole and value == 1)):
        raise ValueError(f"{name}={value} is out of range: choose from 0 to {'1' if whole else 'below 1'}.")
    return float(value)


def check_divide(choice: str) -> None:
    """Raises ``ValueError`` if the choice of what processes divide is unknown."""
    if choice not in (MINIBATCHES, MEMBERS):
        raise ValueError(f"divide={choice!r} is unknown: choose {MINIBATCHES} or {MEMBERS}.")


def check_running_statistics(choice: str, batches: Any, forward: Any) -> None:
    """Checks the arguments of ``LatePhase.average``.

    Raises:
        ValueError: the choice is unknown, ``recompute`` has no batches, or another choice has batches or ``forward``.
    """
    if choice not in RUNNING_STATISTICS:
        raise ValueError(f"running_statistics={choice!r} is unknown: choose one of {', '.join(RUNNING_STATISTICS)}.")
    if (choice == "recompute") != (batches is not None) or (forward is not None and batches is None):
        given = "given" if batches is not None else None
        raise ValueError(
            f"running_statistics={choice!r} with batches={given}, forward={'given' if forward else None}: "
            "running_statistics='recompute' needs batches of training data, and only 'recompute' takes batches and forward."
        )
