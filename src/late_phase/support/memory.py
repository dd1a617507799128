"""Checks whether something fits into the machine's memory, before any memory is used."""

from __future__ import annotations

import os

from late_phase.support.errors import UserError

NUMBER = 4
"""Bytes that a number takes."""

OBJECT = 2**10
"""Bytes that a tensor takes, whatever its size."""

MOST = 2**60
"""The most bytes that messages show as a number."""


def available_memory() -> int | None:
    """Returns the bytes of physical memory; None if the system doesn't say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf, other systems may lack the names
        return None


def check_memory(what: str, needed: int, cure: str) -> None:
    """Refuses what needs more than the physical memory.

    Args:
        what: the key and the value, which begin the message.
        needed: bytes.
        cure: the end of the message.

    Raises:
        UserError: ``needed`` exceeds the physical memory.
    """
    available = available_memory()
    if available is not None and needed > available:
        more = " or more" if needed > MOST else ""  # a float may not hold the number
        raise UserError(
            f"{what} needs about {min(needed, MOST) / 2**30:,.1f} GiB of memory{more}, and this machine has "
            f"{available / 2**30:,.1f} GiB: {cure}"
        )
