"""Paths as users write them."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from pathlib import Path

from late_phase.support.errors import UserError


def expanded(path: str) -> str:
    """The path with ``~`` or ``~user`` at its beginning replaced by the home folder, where there is such a user."""
    return os.path.expanduser(path)  # noqa: PTH111 Path's own fails where there is none, and writes the rest in another way


def check_utf8(key: str, path: Path) -> None:
    """Refuses a place for results that safetensors could write to, but not read from.

    Raises:
        UserError: the path, which the config names by ``key``, is not UTF-8.
    """
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{key}={path} has a name that is not UTF-8, which safetensors needs: choose another place.") from error


def path_argument(text: str) -> Path:
    """The type of an argument of argparse that is a path.

    Raises:
        ArgumentTypeError: it is empty.
    """
    if not text:
        raise ArgumentTypeError("is empty: give a path; that of the current folder is a dot")
    return Path(expanded(text))
