"""Records why a run or its evaluation has failed, in a file in its folder. Tables show the reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from late_phase.support.errors import Busy, UserError, first_line

ERROR = "error.txt"
"""Name of the file, in the run directory."""


def error_of(suite: str) -> str:
    """Returns the name of the file for an evaluation by a suite, beside its results."""
    return f"{suite}.{ERROR}"


@contextmanager
def recorded(file: Path | None) -> Iterator[None]:
    """Writes an error of the block to a file as well, and raises it again. A file of an earlier attempt is removed first."""
    if file is None:
        yield
        return
    file.unlink(missing_ok=True)
    try:
        yield
    except Busy:  # the other process records its own error
        raise
    except Exception as error:
        from late_phase.support.files import write_text  # imports torch

        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
        with suppress(OSError):  # the error itself matters more
            write_text(file, f"{reason}\n")
        raise
