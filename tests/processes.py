"""Runs functions of test modules in several processes, which form a process group of torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing


def _main(rank: int, function: Callable, size: int, folder: Path, arguments: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=size)
    try:
        torch.save(function(rank, *arguments), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def in_processes(function: Callable, folder: Path, *arguments: object, size: int = 2) -> list:
    """Returns what ``function(rank, *arguments)`` returns in each of ``size`` processes. It must be at the top of a test module."""
    torch.multiprocessing.spawn(_main, (function, size, folder, arguments), nprocs=size)
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]
