"""What fits into this machine's memory, found out before any of it is taken."""

from __future__ import annotations

import os

from late_phase.errors import UserError


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
        raise UserError(
            f"{what} needs about {needed / 2**30:.1f} GiB of memory, and this machine has {available / 2**30:.1f} GiB: {cure}"
        )
