"""Errors that the user can fix, and texts for their messages."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in a config, a folder or a file. The message is one sentence with the key, the value and the cure."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Busy(UserError):
    """Another process does the same work."""


def printable(text: str) -> str:
    """Escapes what can't be shown in a line: control characters, and bytes of a file's name that are not UTF-8."""

    def escaped(c: str) -> str:
        byte = "\udc80" <= c <= "\udcff"  # Python represents the bytes 0x80 to 0xff of names by these characters
        return (chr(ord(c) & 0xFF) if byte else c).encode("unicode_escape").decode()

    return "".join(c if c.isprintable() else escaped(c) for c in text)


def first_line(error: BaseException) -> str:
    """Returns the first line of another library's error, for use inside a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
