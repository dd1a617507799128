"""Reads and checks paths that users write."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from pathlib import Path

from late_phase.support.errors import UserError


def expanded(path: str) -> str:
    """Replaces ``~`` or ``~user`` at the beginning of a path by the home folder, if there is such a user."""
    return os.path.expanduser(path)  # noqa: PTH111 Path's own fails for unknown users, and changes the rest of the path


def check_utf8(key: str, path: Path) -> None:
    """Refuses a path that is not UTF-8: safetensors could write files there, but not read them.

    Args:
        key: the key of the config that names the path.

    Raises:
        UserError: the path is not UTF-8.
    """
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{key}={path} has a name that is not UTF-8, which safetensors needs: choose another place.") from error


def path_argument(text: str) -> Path:
    """Converts an argument of argparse to a path.

    Raises:
        ArgumentTypeError: the text is empty.
    """
    if not text:
        raise ArgumentTypeError("is empty: give a path, such as . for the current folder")
    return Path(expanded(text))
