"""Messages to users."""

from __future__ import annotations

import os
import pickle

import pytest

from late_phase.support.errors import UserError, printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"cat.png", "cat.png"),
        ("caf\u00e9 \u65e5\u672c".encode(), "caf\u00e9 \u65e5\u672c"),
        (b"caf\xe9", r"caf\xe9"),
        (b"\x80\xff", r"\x80\xff"),
        (b"a\nb\tc", r"a\nb\tc"),
        (b"\x1b[31m", r"\x1b[31m"),
        ("\u202e.png".encode(), r"\u202e.png"),
    ],
)
def test_names_can_be_shown_in_a_line(name, shown):
    found = printable(os.fsdecode(name))
    assert found == shown and found.isprintable() and found.encode() == shown.encode()
    error = UserError(f"{os.fsdecode(name)} is bad: remove it.")
    assert str(error) == f"{shown} is bad: remove it."
    assert str(pickle.loads(pickle.dumps(error))) == str(error), "as worker processes send it"


def test_a_character_that_is_half_of_one():
    assert printable("a\ud800b") == r"a\ud800b"
