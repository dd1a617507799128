"""What a user sees of a script: whatever the terminal's encoding is, when the output is closed, and when Ctrl-C comes."""

from __future__ import annotations

import codecs
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from late_phase.support.errors import UserError

SPELT_OUT = {"±": "+-", "σ": "sigma", "δ": "delta", "η": "eta", "θ": "theta", "φ": "phi", "×": "x", "–": "-", "−": "-"}
"""What our output has of signs that an encoding may lack."""


def _spell_out(error: UnicodeEncodeError) -> tuple[str, int]:
    characters = error.object[error.start : error.end]
    return "".join(SPELT_OUT.get(c) or c.encode("ascii", "backslashreplace").decode() for c in characters), error.end


codecs.register_error("spell_out", _spell_out)


@contextmanager
def console() -> Iterator[None]:
    """Around all that a script does: any text can be printed, and nothing more is said where nobody reads it.

    Ctrl-C ends the process with one line and status 130, an output that is closed with status 141, as in other programs.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # those of notebooks, which have it not, take any text
            stream.reconfigure(errors="spell_out")
    try:
        yield
        if sys.stdout is not None:  # as it is where there is no terminal
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("stopped by SIGINT", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        if not _closed():  # it was another pipe
            raise
        sys.exit(141)
    finally:
        for descriptor in _closed():  # so that what is still to be printed is no error at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


@contextmanager
def errors_in_one_sentence() -> Iterator[None]:
    """Around all that a script does: errors that a user can mend become one sentence on standard error and exit status 1; others
    keep their traceback. And as with :func:`console`."""
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
    """Which of standard output and standard error nobody reads any more, as after ``| head``."""
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)
    return [descriptor for descriptor, event in poll.poll(0) if event & (select.POLLERR | select.POLLHUP)]


def duration(seconds: float) -> str:
    """A duration in its largest unit that makes at least two."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}" if seconds < 1e15 else f"{seconds / size:.0e} {unit}"
    return "1 second" if f"{seconds:.0f}" == "1" else f"{seconds:.0f} seconds"
