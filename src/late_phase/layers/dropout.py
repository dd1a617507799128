"""Checks of keys that several architectures have."""

from __future__ import annotations


def check_dropout(dropout: float) -> None:
    """Raises ``ValueError`` if it is no probability, or 1, which would leave nothing."""
    if not 0 <= dropout < 1:
        raise ValueError(f"architecture.dropout={dropout} is no probability: choose a number of at least 0 and below 1.")
