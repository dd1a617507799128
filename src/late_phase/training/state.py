"""A run's state: its progress, and loss and hits summed over an epoch without waiting for the device at each minibatch."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from late_phase.training.world import World

SYNCHRONIZE_EVERY = 50


class NonFiniteLoss(Exception):
    """The loss of minibatch ``batch``, counted from 0 in its epoch, is ``value``, which is infinite or nan."""

    def __init__(self, batch: int, value: float) -> None:
        super().__init__(f"loss {value} at minibatch {batch}")
        self.batch = batch
        self.value = value


class EpochSums:
    """Sums since the start of an epoch, weighted by examples."""

    def __init__(self, batches: int = 0, examples: int = 0, loss: float = 0.0, correct: int = 0) -> None:
        self.batches, self.examples, self.loss, self.correct = batches, examples, loss, correct
        self._pending: list[tuple[int, Tensor, Tensor] | None] = []

    def add(self, loss: Tensor, correct: Tensor, examples: int) -> None:
        """Adds a minibatch.

        Args:
            loss: the minibatch's mean loss.
            correct: how many of its examples are predicted correctly.
            examples: number of its examples.

        Raises:
            NonFiniteLoss: the loss of one of the last ``SYNCHRONIZE_EVERY`` minibatches isn't finite. It names the first one.
        """
        self._pending.append((examples, loss.detach(), correct))
        if len(self._pending) == SYNCHRONIZE_EVERY:
            self.synchronize()

    def skip(self) -> None:
        """Counts a minibatch that another process trains."""
        self._pending.append(None)

    def total(self, world: World) -> None:
        """Adds the sums of all processes. Each has counted all minibatches."""
        self.synchronize()
        examples, self.loss, correct = world.total([self.examples, self.loss, self.correct])
        self.examples, self.correct = round(examples), round(correct)

    def keep(self, world: World) -> None:
        """Leaves the sums of all processes to the first one."""
        if not world.first:
            self.examples, self.loss, self.correct = 0, 0.0, 0

    def synchronize(self) -> None:
        """Waits for the device and updates the sums.

        Raises:
            NonFiniteLoss: see :meth:`add`.
        """
        pending, self._pending = self._pending, []
        own = [entry for entry in pending if entry is not None]
        values: list[list[float]] = [[], []]
        if own:
            _, losses, corrects = zip(*own, strict=True)
            values = torch.stack([torch.stack(losses).float(), torch.stack(corrects).float()]).tolist()
        found = zip((size for size, _, _ in own), *values, strict=True)
        for entry in pending:
            if entry is None:
                self.batches += 1
                continue
            size, loss, correct = next(found)
            if not math.isfinite(loss):
                raise NonFiniteLoss(self.batches, loss)
            self.batches += 1
            self.examples += size
            self.loss += loss * size
            self.correct += int(correct)

    def means(self) -> tuple[float, float]:
        """Returns the mean loss and the share of correct predictions of the examples that the sums include so far."""
        return self.loss / self.examples, self.correct / self.examples

    def state_dict(self) -> dict[str, Any]:
        self.synchronize()
        return {"batches": self.batches, "examples": self.examples, "loss": self.loss, "correct": self.correct}


@dataclass
class State:
    """A run's progress.

    Attributes:
        epoch: completed epochs.
        sums: of the current epoch.
        history: a row per epoch.
        seconds: of training, with ``compile_seconds``, which compiling the model took.
        cpu_seconds: the CPU time of training in this process, summed over threads. It hardly depends on what else the machine does;
            nan if it isn't known.
        precisions: those that the run has computed in, in their order; several if it was resumed in another one.
    """

    epoch: int = 0
    sums: EpochSums = field(default_factory=EpochSums)
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    compile_seconds: float = 0.0
    precisions: list[str] = field(default_factory=list)

    def start_clock(self) -> None:
        """Begins to measure, in addition to the seconds so far."""
        self._began = time.monotonic() - self.seconds, time.process_time() - self.cpu_seconds

    def read_clock(self) -> None:
        """Sets the seconds."""
        self.seconds, self.cpu_seconds = time.monotonic() - self._began[0], time.process_time() - self._began[1]

    def computes_in(self, precision: str) -> None:
        """Notes the precision that the run computes in from here on."""
        if self.precisions[-1:] != [precision]:
            self.precisions.append(precision)
