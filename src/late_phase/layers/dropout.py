"""Checks keys that several architectures have."""

from __future__ import annotations


def check_dropout(dropout: float) -> None:
    """Raises ``ValueError`` if ``dropout`` is not a probability, or is 1, which would drop all units."""
    if not 0 <= dropout < 1:
        raise ValueError(f"architecture.dropout={dropout} is out of range: choose a number of at least 0 and below 1.")
