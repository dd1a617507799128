"""The processes that ``torchrun`` starts for one run. They train together; the first one writes."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from late_phase.checks import MEMBERS, MINIBATCHES
from late_phase.config.training import TrainConfig
from late_phase.data.batches import Batches
from late_phase.methods.interface import Method
from late_phase.support.devices import choose_device
from late_phase.support.errors import UserError, first_line
from late_phase.training.interruption import Interruption

T = TypeVar("T")


class World:
    """All processes of a run, of which this is one.

    Attributes:
        rank: index of this process.
        size: number of processes.
        device: where this process computes.
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def agree(self, function: Callable[[], T]) -> T:
        """Calls ``function`` in the first process, and returns its result or raises its ``UserError`` in all of them."""
        if self.size == 1:
            return function()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = function()
            except UserError as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def total(self, values: list[float]) -> list[float]:
        """Returns the sums of each value over the processes."""
        if self.size == 1:
            return values
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return sums.tolist()

    def stopped(self, interruption: Interruption, entered: int | None) -> bool:
        """Returns whether training stops here: whether this process, or with several any process, got a signal.

        Several processes ask each other before T0 after every step, and afterwards at the end of each iteration.

        Args:
            entered: index of the next member; None before T0.
        """
        if self.size == 1:
            return interruption.requested is not None
        if entered:
            return False
        number = torch.tensor(interruption.requested or 0, device=self.device)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        if int(number) and interruption.requested is None:
            interruption.request(int(number))
        return interruption.requested is not None

    def wait(self) -> None:
        """Waits until all processes are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """Joins the processes that ``torchrun`` has started, for the duration of a block; without it there is one process.

    Args:
        device: ``runtime.device``. With CUDA each process of a machine has a device of its own.

    Raises:
        UserError: the device can't be used, or another process has ended.
    """
    size = int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1
    if size == 1:
        yield World(0, 1, choose_device(device))
        return
    own = choose_device(device)
    if own.type == "cuda":
        if own.index is not None:
            raise UserError(f"runtime.device={device} is one device for {size} processes of torchrun: choose cuda or auto.")
        own = choose_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size, own)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(sign in str(error) for sign in ("gloo", "NCCL")):
            raise
        raise UserError(
            f"another process of this run has ended ({first_line(error)}): see what it says, then start again to resume."
        ) from error
    finally:
        dist.destroy_process_group()
        # The group's threads end with the last reference to it, which garbage may hold. If they outlive the interpreter, one that
        # is about to free a tensor aborts the process.
        gc.collect()


def divide(batches: Batches, methods: Iterable[Method], config: TrainConfig, world: World) -> None:
    """Gives each of several processes its portion of the minibatches, as ``late_phase.divide`` says.

    Raises:
        UserError: the run can't be divided.
    """
    if world.size == 1:
        return
    processes, settings, smallest = f"{world.size} processes", config.late_phase, batches.examples(len(batches) - 1)
    refusals = {
        f"architecture={config.architecture.name} reads a text in order, which {processes} can't divide: run one process.": (
            smallest is None
        ),
        f"ensemble.minibatches=own can't be divided among {processes}: choose shared, or run one process.": (
            getattr(config.ensemble, "minibatches", None) == "own"
        ),
        f"compute.compile={config.compute.compile} doesn't work with {processes}: choose false, or run one process.": (
            config.compute.must_compile
        ),
        f"max_grad_norm={config.max_grad_norm} can't clip the gradients of {processes}: choose null, or run one process.": (
            config.max_grad_norm is not None
        ),
        f"patience={config.patience} doesn't work with {processes}: choose null, or run one process.": config.patience is not None,
        f"late_phase.parallel_members={settings.parallel_members} doesn't work with {processes}: choose 1, or run one process.": (
            settings.parallel_members > 1
        ),
    }
    for message, refused in refusals.items():
        if refused:
            raise UserError(message)
    T0 = settings.reached(config.epochs)
    if T0 is not None and settings.divide == MEMBERS and any(method.acts_on_steps for method in methods):
        raise UserError(
            f"averaging={config.averaging.name} needs all members after each step, which {processes} divide: choose "
            "late_phase.divide=minibatches."
        )
    if smallest < world.size:
        raise UserError(f"batch_size={config.batch_size} leaves {smallest} examples for {processes}: choose another one.")

    def portion(epoch: int, batch: int) -> slice | None:
        if epoch >= config.epochs:  # minibatches for running statistics, which every process estimates
            return slice(None)
        if T0 is None or epoch < T0 or settings.divide == MINIBATCHES:
            return slice(world.rank, None, world.size)
        k = ((epoch - T0) * len(batches) + batch) % settings.K
        return slice(None) if k % world.size == world.rank else None

    batches.portion = portion
