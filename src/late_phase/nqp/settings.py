"""What is measured, and the refusal of values that can't be."""

from __future__ import annotations

from dataclasses import dataclass, field

from late_phase.support.errors import UserError

MODELS = ("late_phase", "parameterised", "full")


@dataclass
class Settings:
    """What is measured. Meanings and the stated regime's values: ``configs/nqp.yaml``."""

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
    """Refuses what can't be, whatever the machine.

    The bounds of real numbers are far from all that can be measured, and near enough for no product of them to overflow.

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
        raise UserError(f"window={s.window} is out of range: choose a number of times of the slowest mode, from 1 to 1e30.")
    if not 1e-30 <= s.tolerance < 1:
        raise UserError(f"tolerance={s.tolerance} is out of range: choose a part of the loss, from 1e-30 to below 1, such as 0.01.")
    if not s.seeds or len(set(s.seeds)) < len(s.seeds):
        raise UserError(f"seeds={s.seeds} has none, or one of them twice: choose different ones, such as [0,1,2].")
    for seed in s.seeds:
        if not 0 <= seed < 2**63:
            raise UserError(f"seeds={s.seeds} has {seed}, which is out of range: choose from 0 to below 2^63.")
    return s
