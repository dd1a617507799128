"""Minibatches of a table's rows, which stay on the device as two tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from late_phase.data.batches import Batches, refuse_change
from late_phase.support.seeding import generator


class TableBatches(Batches):
    """Shuffled minibatches of rows; the last one of an epoch may be smaller. An example is a row.

    Args:
        inputs: ``[rows, inputs]``.
        targets: ``[rows]``.
        sha256: checksum of the table; a checkpoint recognizes the table by it.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, batch_size: int, seed: int, sha256: str) -> None:
        self.inputs, self.targets = inputs, targets
        self.batch_size, self.seed = batch_size, seed
        self._sha256 = sha256

    def __len__(self) -> int:
        return -(-len(self.targets) // self.batch_size)

    def examples(self, batch: int) -> int:
        return min(self.batch_size, len(self.targets) - batch * self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor] | None]:
        order = torch.randperm(len(self.targets), generator=generator(self.seed, "batches", epoch)).to(self.targets.device)
        for batch, rows in enumerate(order.split(self.batch_size)[start:], start):
            portion = self.portion(epoch, batch)
            yield None if portion is None else (self.inputs[rows[portion]], self.targets[rows[portion]])

    def state_dict(self) -> dict[str, Any]:
        return {"table": self._sha256}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuses the checkpoint of another table.

        Raises:
            UserError: the table has changed.
        """
        refuse_change("table", state_dict["table"], self._sha256)
