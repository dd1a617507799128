"""Why a run, or an evaluation of one, has failed: a file in its folder, for tables to tell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from late_phase.support.errors import Busy, UserError, first_line

ERROR = "error.txt"
"""Of a run, in its directory."""


def error_of(suite: str) -> str:
    """Of the evaluation by a suite, beside its results."""
    return f"{suite}.{ERROR}"


@contextmanager
def recorded(file: Path | None) -> Iterator[None]:
    """Around work whose error goes into a file as well; that of an attempt before is removed."""
    if file is None:
        yield
        return
    file.unlink(missing_ok=True)
    try:
        yield
    except Busy:  # whoever is at it will tell
        raise
    except Exception as error:
        from late_phase.support.files import write_text  # imports torch

        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
        with suppress(OSError):  # the error itself matters more
            write_text(file, f"{reason}\n")
        raise
