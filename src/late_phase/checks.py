"""What LatePhase's arguments can't be. Without torch, as a command line is checked before torch is imported."""

from __future__ import annotations

import operator
from typing import Any

RUNNING_STATISTICS = ("mean", "folded", "recompute")
"""Where the running statistics of the single model come from, see ``LatePhase.average``."""


def number_of_members(K: Any) -> int:
    """K as an integer, which may be another library's.

    Raises:
        ValueError: it is no integer, or below 1.
    """
    if isinstance(K, bool) or not hasattr(K, "__index__") or operator.index(K) < 1:
        raise ValueError(f"K={K} is not a number of members: choose an integer of at least 1.")
    return operator.index(K)


def amount(value: Any, refusal: str) -> float:
    """σ0 or γ_θ as Python's number.

    Raises:
        ValueError: it is infinite, or below 0; the message is ``refusal``.
    """
    if not 0 <= value < float("inf"):
        raise ValueError(refusal)
    return float(value)


def check_running_statistics(choice: str, batches: Any, forward: Any) -> None:
    """Checks what ``LatePhase.average`` is given.

    Raises:
        ValueError: an unknown choice, or ``recompute`` without batches, or batches or ``forward`` without ``recompute``.
    """
    if choice not in RUNNING_STATISTICS:
        raise ValueError(f"running_statistics={choice!r} is unknown: choose one of {', '.join(RUNNING_STATISTICS)}.")
    if (choice == "recompute") != (batches is not None) or (forward is not None and batches is None):
        given = "given" if batches is not None else None
        raise ValueError(
            f"running_statistics={choice!r} with batches={given}, forward={'given' if forward else None}: "
            "training batches, and forward, go with running_statistics='recompute', and only with it."
        )
