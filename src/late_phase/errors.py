"""The error of a user who can mend it."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in a config, a folder or a file. The message is one sentence that names the key, the value and the cure."""


def first_line(error: BaseException) -> str:
    """What another library's error says, for use inside of a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
