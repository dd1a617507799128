"""Runs scripts from another script."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType


def run_script(command: Sequence[str], root: Path) -> int:
    """Runs a script of the repository in ``root``, with its arguments, and returns its exit status.

    SIGINT and SIGTERM go to the script and to all processes that it has started. The call then waits for the script, because
    training saves a checkpoint before it ends.

    Raises:
        KeyboardInterrupt: after SIGINT.
        SystemExit: after SIGTERM, with status 143.
    """
    print(f"$ python {' '.join(command)}", flush=True)
    received: list[int] = []
    started: list[subprocess.Popen] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        received.append(number)
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # A separate process group: a terminal's Ctrl-C doesn't reach it, so the script gets the signal only once.
        started.append(subprocess.Popen([sys.executable, *command], cwd=root, process_group=0))
        if received:  # before the script was in the list
            os.killpg(started[0].pid, received[0])
        status = started[0].wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signal.SIGINT in received:
        raise KeyboardInterrupt
    if received:
        sys.exit(128 + signal.SIGTERM)
    return status
