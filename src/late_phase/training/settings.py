"""Process-wide settings of a run, taken back afterwards: what one job of a sweep sets, the next one doesn't see."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import torch

from late_phase.support.errors import UserError, first_line
from late_phase.support.seeding import global_generators


def choose_device(name: str) -> torch.device:
    """``auto`` is the first of CUDA, MPS and the CPU that is there; otherwise a device as torch names it.

    Raises:
        UserError: no such device.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # torch's words for an unknown device, one it wasn't built for, and none
        raise UserError(f"runtime.device={name} is not to be had here ({first_line(error)}): choose auto or cpu.") from error
    return device


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """For forward passes: ``bf16`` where torch finds it safe, or, for ``fp32``, nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def torch_settings(device: torch.device, threads: int | None, seed: int) -> Iterator[None]:
    """Number of CPU threads, cuDNN's deterministic kernels, and the global generators' seed."""
    before = torch.get_num_threads(), torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with global_generators(device, seed):
        try:
            torch.set_num_threads(threads or before[0])
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before[1:]


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """State of the global generators, which the model may use, for dropout for example."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type in state and device.type != "cpu":  # absent after a change of device
        torch.get_device_module(device).set_rng_state(state[device.type])


class Interruption:
    """SIGTERM and SIGINT for a run that saves before it ends.

    Within the context manager a signal ends the process at once, except within :meth:`deferred`: there ``requested`` tells that one
    has come, and the loop ends the process by :meth:`exit` when it has saved. A second signal isn't deferred. The exit status is
    128 + the signal's number, as usual, so that scripts can tell a stopped run from a finished one.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._deferred = False

    def __enter__(self) -> Interruption:
        self._before = {}
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle)
        except ValueError:  # not in the main thread: signals are the business of whoever runs it
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
            os.write(2, f"stopped by {number.name}\n".encode())  # a signal may have come while something else was being printed
        raise SystemExit(128 + number)
