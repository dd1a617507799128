"""Datasets made ready for use, by name: downloaded, verified, extracted, and read once."""

from __future__ import annotations

from late_phase.config.choices import CHOICES
from late_phase.data import CORRUPTED, NAMELESS, load, load_corrupted, root_options

PREPARED = (*(name for name in CHOICES["dataset"] if name not in NAMELESS), *CORRUPTED)


def prepare(name: str, root: str) -> str:
    """Loads the dataset ``name``, from the folder ``root`` if it isn't embedded, and says in a line what it is.

    Raises:
        UserError: its files are neither there nor to be had.
    """
    where = root_options(name, root)
    loaded = load_corrupted(name, **where) if name in CORRUPTED else load(name, **where)
    place = f"whole, in {where['root']}" if where else "embedded"
    return f"{name}: {loaded.in_words()}; {place}"
