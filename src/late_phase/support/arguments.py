"""Command lines of the scripts that take no config."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that answers mistakes as the scripts with a config do: one sentence on standard error, and exit status 1."""

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        usage = " ".join(self.format_usage().split()).removeprefix("usage: ")
        sys.exit(f"error: {message}: write {usage}.")


def count(text: str) -> int:
    """Converts an argument to an integer of at least 1.

    Raises:
        argparse.ArgumentTypeError: the text is not such an integer.
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return number


def one_of(choices: Collection[str]) -> Callable[[str], str]:
    """Returns the type of an argument that must be one of ``choices``. It raises ``argparse.ArgumentTypeError`` for others."""

    def choice(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(choices)}")
        return text

    return choice
