"""Command lines of the scripts that don't take a config."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Answers a mistake as the scripts with a config do: with one sentence on standard error and exit status 1."""

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        usage = " ".join(self.format_usage().split()).removeprefix("usage: ")
        sys.exit(f"error: {message}: write {usage}.")


def count(text: str) -> int:
    """The type of an argument that is an integer of at least 1.

    Raises:
        argparse.ArgumentTypeError: it isn't.
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer of at least 1")
    return number


def one_of(choices: Collection[str]) -> Callable[[str], str]:
    """The type of an argument that is one of ``choices``; it raises ``argparse.ArgumentTypeError`` for others."""

    def choice(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return choice
