"""Handles the signals that stop a run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOP = (signal.SIGTERM, signal.SIGINT)
WARN = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
"""Schedulers send them before a job's time is over. Windows doesn't know them."""


ECHO = 10.0
"""Seconds in which a second signal is the first one again, if torchrun has started the process."""


class Interruption:
    """Handles SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 for a run that saves before it ends.

    Within this context manager a signal ends the process at once. Within :meth:`deferred` it only sets ``requested``; the training
    loop then saves and calls :meth:`exit`. A second signal isn't deferred. The exit status is 128 + the signal's number, as usual.
    Scripts can thus tell a stopped run from a finished one.

    A launcher of jobs may handle signals, too. All but SIGINT are then handed to its own handler, once the run has saved. submitit
    queues the job again on SIGUSR2, or on the signal in ``SUBMITIT_PREEMPT_SIGNAL``, and ignores SIGTERM: SLURM itself kills and
    queues the jobs that it preempts, but a job that has ended by itself may not be queued again.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._time = -ECHO
        self._deferred = False

    def __enter__(self) -> Interruption:
        self._before = {}
        try:
            for number in (*STOP, *WARN):
                self._before[number] = signal.signal(number, self._handle)
        except ValueError:  # outside of the main thread, the caller handles signals
            pass
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.requested:
            self.exit()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # torchrun hands on a signal that its processes may have got already, as a scheduler sends it to all of a job.
        echo = "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - self._time < ECHO
        again = self.requested is not None and not self._launchers(number) and not echo
        self.request(number)
        if again or not self._deferred:
            self.exit()

    def _launchers(self, number: int) -> Callable[[int, FrameType | None], object] | None:
        """Returns a launcher's handler of a signal; None if there is none. Python's own handler of SIGINT is not a launcher's."""
        handler = self._before.get(number)
        return handler if callable(handler) and number != signal.SIGINT else None

    def request(self, number: int) -> None:
        """Notes a signal, to this process or to another one of the run."""
        self.requested, self._time = number, time.monotonic()

    def exit(self) -> None:
        """Ends the process, or hands the signal to a launcher. If its handler returns, so does this method, and the run goes on."""
        number, self.requested = signal.Signals(self.requested), None
        if handler := self._launchers(number):
            handler(number, None)
            return
        with suppress(OSError):
            os.write(2, f"stopped by {number.name}\n".encode())  # print() fails if the signal has interrupted another print()
        raise SystemExit(128 + number)
