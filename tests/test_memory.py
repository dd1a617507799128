"""Physical memory, and the refusal of what doesn't fit into it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from late_phase.support import memory
from late_phase.support.errors import UserError
from late_phase.support.memory import available_memory, check_memory


def test_the_memory_is_what_the_system_says():
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        pytest.skip("needs Linux")
    kibibytes = int(meminfo.read_text().splitlines()[0].split()[1])
    assert available_memory() == 1024 * kibibytes


@pytest.mark.parametrize("error", [AttributeError, ValueError, OSError])
def test_where_the_system_does_not_say_nothing_is_refused(monkeypatch, error):
    def sysconf(name: str) -> int:
        raise error(name)

    monkeypatch.setattr(os, "sysconf", sysconf)
    assert available_memory() is None
    check_memory("K=1", 2**80, "choose less.")


def test_what_does_not_fit_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 8 * 2**30)
    check_memory("K=4", 8 * 2**30, "choose a smaller K.")
    with pytest.raises(UserError) as error:
        check_memory("K=5", 10 * 2**30 + 1, "choose a smaller K.")
    assert str(error.value) == "K=5 needs about 10.0 GiB of memory, and this machine has 8.0 GiB: choose a smaller K."
    with pytest.raises(UserError, match=r"^K=5 needs about 1,073,741,824\.0 GiB of memory or more, and this machine has"):
        check_memory("K=5", 10**400, "choose a smaller K.")
