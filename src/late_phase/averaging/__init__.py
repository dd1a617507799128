"""Averages of weights over the last epochs of training, by name."""

from __future__ import annotations

from collections.abc import Callable

from late_phase.averaging.swa import SWA
from late_phase.averaging.swag import SWAG

AVERAGINGS: dict[str, Callable[..., SWA]] = {"swa": SWA, "swag": SWAG}


def build(name: str, **options: int) -> SWA | None:
    """The averaging ``name``, empty as yet; None for ``none``."""
    return None if name == "none" else AVERAGINGS[name](**options)
