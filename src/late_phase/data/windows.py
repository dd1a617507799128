"""Minibatches of text for models without a hidden state: windows from random places."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from late_phase.data.batches import Batches, refuse_change
from late_phase.data.segments import RecurrentModel
from late_phase.data.text import Vocabulary
from late_phase.support.seeding import generator


class Windows(Batches):
    """Random windows of a text. All are equally likely, and each is drawn without regard to the others. An example is a window.

    Args:
        content: ``[bytes]`` uint8, mapped into memory or not.
        windows: windows in a minibatch.
        length: bytes that are predicted in each window, the first one from the byte before it.
        seed: an epoch is a function of the seed and its number.
        device: where the minibatches are wanted.
        minibatches: minibatches of an epoch; by default, those that predict as many bytes as the text has.
        sha256: checksum of the whole text; a checkpoint recognizes the text by it.

    Raises:
        ValueError: the text is too short for a minibatch of windows, or a number is below 1.
    """

    def __init__(
        self,
        content: Tensor,
        vocabulary: Vocabulary,
        windows: int,
        length: int,
        seed: int,
        device: torch.device,
        minibatches: int | None = None,
        sha256: str = "",
    ) -> None:
        whole = (len(content) - 1) // (windows * length) if windows > 0 and length > 0 else 0
        if whole < 1 or (minibatches is not None and minibatches < 1):
            raise ValueError(
                f"{len(content)} bytes are too few for a minibatch of {windows} windows of {length} bytes: choose fewer or shorter "
                "windows, or a longer text."
            )
        self._sha256 = sha256
        self.content = content
        self.vocabulary = vocabulary
        self.windows = windows
        self.length = self.targets_per_example = length
        self.seed = seed
        self.device = device
        self.minibatches = whole if minibatches is None else minibatches

    def __len__(self) -> int:
        return self.minibatches

    def examples(self, batch: int) -> int:
        return self.windows

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor] | None]:
        """Yields symbols ``[length, windows]``, and the symbols that follow each of them ``[length * windows]``."""
        random = generator(self.seed, "batches", epoch)
        places = torch.randint(len(self.content) - self.length, (len(self), self.windows), generator=random)
        positions = torch.arange(self.length + 1)[:, None]
        for batch, first in enumerate(places[start:], start):
            portion = self.portion(epoch, batch)
            if portion is None:
                yield None
                continue
            symbols = self.vocabulary.encode(self.content[first[portion] + positions]).to(self.device)
            yield symbols[:-1], symbols[1:].flatten()

    def outputs(self, model: RecurrentModel, inputs: Tensor) -> Tensor:
        """Returns ``[length * windows, symbols]``."""
        return model(inputs, None)[0].flatten(0, 1)

    def state_dict(self) -> dict[str, Any]:
        return {"text": self._sha256}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuses the state of another text.

        Raises:
            UserError: the state belongs to another text.
        """
        refuse_change("text", state_dict["text"], self._sha256)
