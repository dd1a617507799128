"""Sets where and how torch computes: device, precision, threads and random generators."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

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


def precision_on(device: torch.device, chosen: str, bf16_pays: bool) -> str:
    """Returns the precision that ``compute.precision`` stands for on a device: fp32, tf32 or bf16.

    ``auto`` is bf16 where the device has instructions for it, on a CPU only if it is faster there. Only NVIDIA GPUs have tf32;
    elsewhere a model that was trained in it is evaluated in fp32.

    Args:
        bf16_pays: whether bf16 is faster than fp32 on a CPU with such instructions.
    """
    if chosen == "tf32" and device.type != "cuda":
        return "fp32"
    if chosen != "auto":
        return chosen
    return "bf16" if has_bf16(device) and (bf16_pays or device.type == "cuda") else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Tells whether a device has instructions for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and any("bf16" in key and value for key, value in torch.cpu.get_capabilities().items())


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Returns the context of forward passes: ``bf16`` uses bfloat16 where torch considers it safe, ``tf32`` see :func:`tf32`."""
    return tf32(True) if precision == "tf32" else torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def tf32(used: bool) -> Iterator[None]:
    """Sets whether NVIDIA GPUs round the factors of float32 products to TensorFloat-32 during the block, in all operations.

    Torch's own default is yes for convolutions and no for matrices.
    """
    # Torch's newer switches, fp32_precision, make it an error to read the older ones, which torch itself does in places.
    matrices, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matrices.allow_tf32, convolutions.allow_tf32
    try:
        matrices.allow_tf32 = convolutions.allow_tf32 = used
        yield
    finally:
        matrices.allow_tf32, convolutions.allow_tf32 = before


@contextmanager
def torch_settings(device: torch.device, threads: int | None, seed: int, rank: int = 0, precision: str = "fp32") -> Iterator[None]:
    """Sets how torch computes during the block.

    These are the number of CPU threads, cuDNN's deterministic kernels, TensorFloat-32, and the seed of the global generators. Each
    of several processes has a seed of its own, because dropout must differ among them.
    The block restores the old settings at its end. Otherwise a job of a sweep would see the settings of another job.
    """
    before = torch.get_num_threads(), torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with global_generators(device, seed, *(["process", rank] if rank else [])), tf32(precision == "tf32"):
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
