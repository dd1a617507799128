"""Handles the signals that stop a run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class Interruption:
    """Handles SIGTERM and SIGINT for a run that saves before it ends.

    Within this context manager a signal ends the process at once. Within :meth:`deferred` it only sets ``requested``; the training
    loop then saves and calls :meth:`exit`. A second signal isn't deferred. The exit status is 128 + the signal's number, as usual.
    Scripts can thus tell a stopped run from a finished one.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._deferred = False

    def __enter__(self) -> Interruption:
        self._before = {}
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
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
        again, self.requested = self.requested is not None, number
        if again or not self._deferred:
            self.exit()

    def exit(self) -> None:
        number = signal.Signals(self.requested)
        with suppress(OSError):
            os.write(2, f"stopped by {number.name}\n".encode())  # print() fails if the signal has interrupted another print()
        raise SystemExit(128 + number)
