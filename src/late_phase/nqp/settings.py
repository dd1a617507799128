"""The settings of a measurement, and the check of their values."""

from __future__ import annotations

from dataclasses import dataclass, field

from late_phase.support.errors import UserError

MODELS = ("late_phase", "parameterised", "full")


@dataclass
class Settings:
    """The settings of a measurement. ``configs/nqp.yaml`` has their meanings and the stated regime's values."""

    model: str = "late_phase"
    K: int = 10
    eta: float = 0.02
    B: int = 20
    n: int = 100
    d: int = 1
    target_norm: float = 10.0
    phi0: float = 1.0
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3])
    repetitions: int = 2
    tolerance: float = 0.01
    window: float = 6.0


def check(s: Settings) -> Settings:
    """Refuses values that are impossible on any machine.

    The bounds of real numbers are far outside all that can be measured, and narrow enough that no product of them overflows.

    Raises:
        UserError: a value is impossible.
    """
    if s.model not in MODELS:
        raise UserError(f"model={s.model} is unknown: choose one of {', '.join(MODELS)}.")
    for key in ("K", "B", "n", "d", "repetitions"):
        if not 1 <= getattr(s, key) < 2**63:
            raise UserError(f"{key}={getattr(s, key)} is out of range: choose an integer from 1 to below 2^63.")
    for key in ("eta", "target_norm", "phi0"):
        if not 1e-30 <= getattr(s, key) <= 1e30:
            raise UserError(f"{key}={getattr(s, key)} is out of range: choose a number from 1e-30 to 1e30.")
    if not 1 <= s.window <= 1e30:
        raise UserError(f"window={s.window} is out of range: choose from 1 to 1e30, in times of the slowest mode.")
    if not 1e-30 <= s.tolerance < 1:
        raise UserError(f"tolerance={s.tolerance} is out of range: choose a share of the loss from 1e-30 to below 1, such as 0.01.")
    if not s.seeds or len(set(s.seeds)) < len(s.seeds):
        raise UserError(f"seeds={s.seeds} is empty or repeats a seed: choose different seeds, such as [0,1,2].")
    for seed in s.seeds:
        if not 0 <= seed < 2**63:
            raise UserError(f"seeds={s.seeds} has {seed}, which is out of range: choose from 0 to below 2^63.")
    return s
