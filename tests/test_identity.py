"""What of a config makes a run another one."""

from __future__ import annotations

from late_phase.config.identity import differences


def test_differences_name_every_key():
    assert differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}) == [
        "a.c: 2 -> 4",
        "d: 3 -> None",
        "e: None -> 5",
    ]
