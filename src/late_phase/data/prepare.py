"""Prepares datasets by name: downloads, verifies and extracts them, and reads them once."""

from __future__ import annotations

from late_phase.config.choices import CHOICES
from late_phase.data import CORRUPTED, NAMELESS, load, load_corrupted, root_options

PREPARED = (*(name for name in CHOICES["dataset"] if name not in NAMELESS), *CORRUPTED)


def prepare(name: str, root: str) -> str:
    """Loads the dataset ``name`` and returns a line that describes it. If it isn't embedded, its files are in ``root``.

    Raises:
        UserError: its files are absent and can't be downloaded.
    """
    where = root_options(name, root)
    loaded = load_corrupted(name, **where) if name in CORRUPTED else load(name, **where)
    place = f"whole, in {where['root']}" if where else "embedded"
    return f"{name}: {loaded.in_words()}; {place}"
