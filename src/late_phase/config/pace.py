"""Makes training shorter or longer, in the same proportions."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from typing import Any

from late_phase.config.training import TrainConfig
from late_phase.support.errors import UserError


def at_pace(config: TrainConfig) -> TrainConfig:
    """Returns the config with all times multiplied by ``pace``, rounded to whole epochs. The pace of the result is 1.

    ``epochs=200 late_phase.T0=120 pace=0.3`` becomes ``epochs=60 late_phase.T0=36``. The breakpoints of the schedule move as well.

    Raises:
        UserError: the pace is not a positive number, or leaves no epoch.
    """
    pace = config.pace
    if not 0 < pace < math.inf:
        raise UserError(f"pace={pace} is out of range: choose a number above 0.")
    paced = _times(config, pace)
    if paced.epochs < 1 <= config.epochs:
        raise UserError(f"pace={pace} leaves no whole epoch of epochs={config.epochs}: choose a larger pace.")
    return replace(paced, pace=1.0)


def _times(config: Any, factor: float) -> Any:
    changes = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            changes[f.name] = _times(value, factor)
        elif "epochs" in f.metadata and value is not None:
            times = [math.floor(factor * time + 0.5) for time in (value if isinstance(value, list) else [value])]
            changes[f.name] = times if isinstance(value, list) else times[0]
    return replace(config, **changes)
