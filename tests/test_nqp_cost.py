"""The estimates of memory and time, against what is taken; and the refusal of too much."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from late_phase.nqp.cost import check_bytes, check_seconds, needed_bytes, needed_seconds
from late_phase.nqp.measure import Plan, measure, plan
from late_phase.nqp.settings import MODELS, Settings
from late_phase.support import memory
from late_phase.support.console import duration
from late_phase.support.errors import UserError

SIZES = [
    Settings(K=3, n=200, seeds=[0], repetitions=1),
    Settings(K=20_000, n=5, seeds=[0], repetitions=3),
    Settings(K=4, n=30, d=200, phi0=14.0, seeds=[0], repetitions=1),
    Settings(model="parameterised", K=200, n=100, seeds=[0, 1]),
    Settings(model="full", K=2000, n=20, seeds=[0, 1]),
    Settings(model="full", K=1, n=2, seeds=[0, 1], repetitions=50),
]


@pytest.mark.parametrize("s", SIZES)
def test_the_memory_is_that_which_is_taken_and_never_less(s):
    """All of the closed form and a few steps, as Python and numpy account for it."""
    tracemalloc.start()
    try:
        planned = plan(Settings(**vars(s) | {"eta": 1e-3 / s.phi0**2}))
        measure(Plan(planned.settings, 2, 6, 1, 0.0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < needed_bytes(s, 8) + 1_000_000 and needed_bytes(s, 8) < 5 * peak


def test_records_take_memory_too():
    s = Settings(model="full", K=1, n=1, eta=0.5, seeds=[0], repetitions=200)
    tracemalloc.start()
    try:
        measure(Plan(s, 0, 1000, 1, 0.0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak / 3 < needed_bytes(s, 1000) - needed_bytes(s, 0) < 3 * peak


@pytest.mark.parametrize("model", MODELS)
def test_the_time_is_right_to_an_order_of_magnitude(model):
    planned = Plan(Settings(model=model, K=5, n=50, target_norm=7.0, d=1, eta=0.02), 100, 900, 10, 0.0)
    began = time.process_time()
    measure(planned)
    taken = time.process_time() - began
    assert taken / 10 < needed_seconds(planned.settings, 1000) < 10 * taken


def test_more_of_anything_takes_more():
    base = Settings(K=10, d=3)
    for changes in ({"K": 20}, {"n": 200}, {"d": 4}, {"repetitions": 3}, {"seeds": [0, 1, 2, 3, 4]}):
        more = Settings(**vars(base) | changes)
        assert needed_bytes(more, 10) > needed_bytes(base, 10) and needed_seconds(more, 10) > needed_seconds(base, 10)


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 10**5},
        {"n": 10**9},
        {"n": 2**63 - 1},
        {"K": 10**9},
        {"d": 10**7},
        {"repetitions": 10**9},
        {"model": "full", "K": 10**9},
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(monkeypatch, changes):
    monkeypatch.setattr(memory, "available_memory", lambda: 64 * 2**30)
    s, began = Settings(**changes), time.monotonic()
    with pytest.raises(UserError) as error:
        plan(s)
    key, value = list(changes.items())[-1]
    needed = min(needed_bytes(s, 0), memory.MOST) / 2**30
    sentence = f"{key}={value}.* needs about {needed:,.1f} GiB of memory( or more)?, and this machine has 64.0 GiB: choose"
    assert error.match(sentence) and time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"eta": 1e-20}, "6e+22"),
        ({"eta": 1e-30}, "6e+32"),
        ({"window": 1e12}, "5e+15"),
        ({"n": 4, "target_norm": 1e-12, "seeds": (1,)}, "7.6e+14"),  # φ⁴ falls to K (‖w*‖²/n)
    ],
)
def test_what_takes_months_is_refused_before_any_work(changes, steps):
    """A time of the slowest mode takes n / (η φ²) steps."""
    began = time.monotonic()
    with pytest.raises(UserError, match=r"takes about [\d,e+]+ days \(") as error:
        plan(Settings(**changes))
    assert f"({steps} steps)" in str(error.value) and time.monotonic() - began < 1


def test_what_takes_weeks_is_planned():
    planned = plan(Settings(model="full", n=10, K=1, seeds=[0], repetitions=1, eta=1e-9))
    assert 25 * 86400 > planned.seconds > 86400 and planned.burn_in + planned.window > 10**11


def test_many_records_are_refused_by_the_memory(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 2**30)
    s = Settings(n=4, K=2)
    check_bytes(s, 10**5)
    with pytest.raises(
        UserError, match=r"which makes 100,000,000 records, needs about .* choose smaller sizes or a smaller window\."
    ):
        check_bytes(s, 10**8)


def test_the_limit_is_a_month():
    s = Settings(n=4, K=1)
    steps = round(30 * 86400 / needed_seconds(s, 10**6) * 10**6)
    assert check_seconds(s, steps * 99 // 100) == pytest.approx(30 * 86400, rel=0.02)
    with pytest.raises(UserError, match="more than the limit of 30 days"):
        check_seconds(s, steps * 101 // 100)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3, "3 seconds"), (119, "119 seconds"), (120, "2 minutes"), (7200, "2 hours"), (2.6e6, "30 days"), (8.64e20, "1e+16 days")],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words
