"""Sets where and how torch computes: device, precision, threads and random generators."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from late_phase.support.errors import UserError, first_line
from late_phase.support.seeding import global_generators


def choose_device(name: str) -> torch.device:
    """Returns a device by torch's name. ``auto`` is the first available of CUDA, MPS and the CPU.

    Raises:
        UserError: there is no such device.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # the device is unknown, absent, or torch was built without it
        raise UserError(f"runtime.device={name} is not available here ({first_line(error)}): choose auto or cpu.") from error
    return device


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Returns the context of forward passes: ``bf16`` uses bfloat16 where torch considers it safe, ``fp32`` changes nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def torch_settings(device: torch.device, threads: int | None, seed: int, rank: int = 0) -> Iterator[None]:
    """Sets the number of CPU threads, cuDNN's deterministic kernels, and the seed of the global generators during the block.

    Each of several processes has a seed of its own, because dropout must differ among them.
    The block restores the old settings at its end. Otherwise a job of a sweep would see the settings of another job.
    """
    before = torch.get_num_threads(), torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with global_generators(device, seed, *(["process", rank] if rank else [])):
        try:
            torch.set_num_threads(threads or before[0])
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before[1:]


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Returns the state of the global generators, which the model may use, for example for dropout."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type in state and device.type != "cpu":  # absent after a change of device
        torch.get_device_module(device).set_rng_state(state[device.type])
