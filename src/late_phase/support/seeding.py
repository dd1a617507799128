"""Named random generators.

Every use of randomness has a generator of its own, a pure function of the seed, the purpose and, where there is one, the epoch.
Thus adding a use disturbs no other one, and there is no generator state that a checkpoint could miss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for this purpose, e.g. ``generator(seed, "epoch", 17)``; different purposes give independent streams."""
    return torch.Generator().manual_seed(_number(seed, *purpose))


@contextmanager
def global_generators(device: torch.device, seed: int, *purpose: str | int) -> Iterator[None]:
    """For a block, torch's global generators, which dropout uses, on the CPU and on ``device``, start where the purpose says."""
    devices = [device] if device.type not in ("cpu", "mps") else []
    with torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(_number(seed, *purpose) if purpose else seed)
        yield


def _number(seed: int, *purpose: str | int) -> int:
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
