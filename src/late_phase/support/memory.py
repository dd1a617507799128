"""What fits into this machine's memory, found out before any of it is taken."""

from __future__ import annotations

import os

from late_phase.support.errors import UserError

NUMBER = 4
"""Bytes of a number."""

OBJECT = 2**10
"""Bytes that a tensor takes, whatever its size."""

MOST = 2**60
"""Bytes that are told as a number."""


def available_memory() -> int | None:
    """Bytes of physical memory; None where the system doesn't say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf, other systems may lack the names
        return None


def check_memory(what: str, needed: int, cure: str) -> None:
    """Refuses what needs more than the physical memory.

    Args:
        what: names the key and the value.
        needed: bytes.
        cure: ends the sentence.

    Raises:
        UserError: ``needed`` is more than there is.
    """
    available = available_memory()
    if available is not None and needed > available:
        more = " or more" if needed > MOST else ""  # than a float may hold
        raise UserError(
            f"{what} needs about {min(needed, MOST) / 2**30:,.1f} GiB of memory{more}, and this machine has "
            f"{available / 2**30:,.1f} GiB: {cure}"
        )
