"""Named random generators.

Every use of randomness has its own generator. It is a pure function of the seed, the purpose and, if there is one, the epoch.
A new use therefore doesn't change the others, and checkpoints don't have to store these generators.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Returns a CPU generator for a purpose, such as ``generator(seed, "epoch", 17)``. Purposes have independent streams."""
    return torch.Generator().manual_seed(_number(seed, *purpose))


@contextmanager
def global_generators(device: torch.device, seed: int, *purpose: str | int) -> Iterator[None]:
    """Seeds torch's global generators for a purpose during the block, on the CPU and on ``device``. Dropout uses them."""
    devices = [device] if device.type not in ("cpu", "mps") else []
    with torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda"):
        # torch.manual_seed also formats the stack three times, to seed accelerators that aren't in use.
        seed_all = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed
        seed_all(_number(seed, *purpose) if purpose else seed)
        yield


def _number(seed: int, *purpose: str | int) -> int:
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
