"""The output of scripts: works in any encoding, and ends cleanly if the output is closed or Ctrl-C is pressed."""

from __future__ import annotations

import codecs
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from late_phase.support.errors import UserError

SPELT_OUT = {"±": "+-", "σ": "sigma", "δ": "delta", "η": "eta", "θ": "theta", "φ": "phi", "×": "x", "–": "-", "−": "-"}
"""Replacements for the characters of our output that an encoding may lack."""


def _spell_out(error: UnicodeEncodeError) -> tuple[str, int]:
    characters = error.object[error.start : error.end]
    return "".join(SPELT_OUT.get(c) or c.encode("ascii", "backslashreplace").decode() for c in characters), error.end


codecs.register_error("spell_out", _spell_out)


@contextmanager
def console() -> Iterator[None]:
    """Surrounds all that a script does: any text can be printed, and closed outputs get no more text.

    As in other programs, Ctrl-C ends the process with one line and status 130, and a closed output ends it with status 141.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # streams of notebooks lack it, and take any text
            stream.reconfigure(errors="spell_out")
    try:
        yield
        if sys.stdout is not None:  # it may be None if there is no terminal
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("stopped by SIGINT", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        if not _closed():  # the error came from another pipe
            raise
        sys.exit(141)
    finally:
        for descriptor in _closed():  # otherwise flushing the rest of the output fails at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


@contextmanager
def errors_in_one_sentence() -> Iterator[None]:
    """Surrounds all that a script does, as :func:`console`, and turns errors that a user can fix into one sentence.

    The sentence goes to standard error, and the exit status is 1. Other errors keep their traceback.
    """
    with console():
        try:
            yield
        except UserError as error:
            sys.exit(f"error: {error}")
        except OSError as error:
            if error.filename is None:
                raise
            sys.exit(f"error: {error.filename} can't be used ({error.strerror}): choose another place or change its permissions.")


def _closed() -> list[int]:
    """Returns the descriptors of standard output and standard error that nobody reads any more, as after ``| head``."""
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)
    return [descriptor for descriptor, event in poll.poll(0) if event & (select.POLLERR | select.POLLHUP)]


def duration(seconds: float) -> str:
    """Writes a duration in the largest unit of which it has at least two."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}" if seconds < 1e15 else f"{seconds / size:.0e} {unit}"
    return "1 second" if f"{seconds:.0f}" == "1" else f"{seconds:.0f} seconds"
