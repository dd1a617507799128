"""Where torch computes, and how: the device, its precision, threads and generators."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

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
    """Number of CPU threads, cuDNN's deterministic kernels, and the global generators' seed. They are taken back after the block,
    so that a job of a sweep doesn't see those of another."""
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
