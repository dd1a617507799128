"""Named random generators.

Every use of randomness has a generator of its own, a pure function of the seed, the purpose and, where there is one, the epoch.
Thus adding a use disturbs no other one, and there is no generator state that a checkpoint could miss.
"""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for this purpose, e.g. ``generator(seed, "epoch", 17)``; different purposes give independent streams."""
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
