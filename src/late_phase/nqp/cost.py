"""The cost of a measurement, estimated before it begins: memory, and time to a factor of about three on today's cores."""

from __future__ import annotations

from late_phase.nqp.settings import Settings, check
from late_phase.support.console import duration
from late_phase.support.errors import UserError
from late_phase.support.memory import check_memory

LONGEST = 30 * 24 * 60 * 60
"""Seconds. Measurements that take longer are refused."""


def check_settings(s: Settings) -> float:
    """Checks the settings and returns the seconds of the closed form, which is computed before any step.

    Raises:
        UserError: a value is impossible, the sizes don't fit into memory, or the closed form takes longer than :data:`LONGEST`.
    """
    check(s)
    check_bytes(s)
    return check_seconds(s, 0)


def check_bytes(s: Settings, records: int = 0) -> None:
    """Checks that a measurement with this number of records fits into memory.

    Raises:
        UserError: it doesn't fit.
    """
    what = f"model={s.model} with K={s.K}, n={s.n}, d={s.d}, repetitions={s.repetitions} and {len(s.seeds)} seeds"
    made = f", which makes {records:,} records," if records else ""
    check_memory(f"{what}{made}", needed_bytes(s, records), "choose smaller sizes" + (" or a smaller window." if records else "."))


def check_seconds(s: Settings, steps: int) -> float:
    """Returns the seconds that a measurement of this many steps takes.

    Raises:
        UserError: it takes longer than :data:`LONGEST`.
    """
    seconds = needed_seconds(s, steps)
    if seconds > LONGEST:
        raise UserError(
            f"model={s.model} with K={s.K}, n={s.n}, d={s.d}, eta={s.eta:g}, target_norm={s.target_norm:g}, phi0={s.phi0:g}, "
            f"window={s.window:g}, repetitions={s.repetitions} and {len(s.seeds)} seeds takes about {duration(seconds)} "
            f"({steps:.2g} steps), more than the limit of {duration(LONGEST)}: choose a larger eta, or smaller sizes."
        )
    return seconds


def needed_bytes(s: Settings, records: int) -> int:
    """Estimates the memory of the closed form's matrices, the seeds' starts, the state and its noise in a step, and the records."""
    models, state, draws = _numbers(s)
    of_a_run = models * (6 * state + 4 * draws + (4 * s.d**2 if s.d > 1 and s.model != "full" else 0)) + 10 * records
    return 8 * (16 * _order(s) ** 2 + len(s.seeds) * (3 * s.n * s.d + s.repetitions * of_a_run))


def needed_seconds(s: Settings, steps: int) -> float:
    """Estimates the time of the closed form, computed six times for each seed, and of the steps."""
    models, state, draws = _numbers(s)
    calls, of_a_model = 1e-5, 25e-9 * (state + draws)
    if s.model != "full":
        members = s.K if s.model == "late_phase" else 1
        calls = 4e-5
        if s.d > 1:  # matrix products, QR, and eigenvectors if d < members
            of_a_model += 1e-9 * ((s.n + members) * s.d**2 + (s.d**3 if s.d < members else 0))
    closed_form = 6 * len(s.seeds) * 7e-9 * _order(s) ** 3
    return closed_form + steps * (calls + len(s.seeds) * s.repetitions * models * of_a_model)


def _order(s: Settings) -> int:
    """Returns the order of the closed form's largest matrices."""
    return s.n if s.model == "full" else max(s.n, s.d)


def _numbers(s: Settings) -> tuple[int, int, int]:
    """Returns the independent models in a run, and each model's numbers in its state and its draws in a step (``simulate``)."""
    if s.model == "full":
        return s.K, s.n, s.n
    members, models = (s.K, 1) if s.model == "late_phase" else (1, s.K)
    return models, (s.n + members) * s.d, min(members, s.d) * s.n + (members * s.d if s.d < members else 0)
