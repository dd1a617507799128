"""Minibatches of text: streams that are read side by side, and the hidden state that goes along with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from late_phase.data.batches import Batches
from late_phase.data.text import Vocabulary
from late_phase.support.errors import UserError

HiddenState = tuple[Tensor, ...]
"""What a model remembers of the text before a segment: tensors ``[layers, streams, ...]``; an LSTM's are h and c.

A model that remembers nothing has an empty one: it predicts each segment by itself. One that looks at the last symbols may keep
these, as integers.
"""

RecurrentModel = Callable[[Tensor, HiddenState | None], tuple[Tensor, HiddenState]]
"""Symbols ``[positions, streams]`` and the state before them, None for zero, to logits ``[positions, streams, symbols]`` and the
state after them."""


class Segments(Batches):
    """Segments of a text, a minibatch being the next ``length`` positions of each stream.

    The text is cut into ``streams`` pieces of equal length, which an epoch reads side by side, from the first byte to the last; at
    the end of the text a byte for each stream at most is left over. The last segment of an epoch may be shorter.

    The hidden state belongs to the streams: a segment begins with the state that the one before it ended with, an epoch with zeros.
    No gradient flows through it. With late-phase weights the one before was another member's inner step, so each member takes up
    the state where the member before it left off.

    Args:
        content: ``[bytes]`` uint8, mapped into memory or not.
        carry_state: False for segments that all begin with zeros.
        device: where the minibatches are wanted.
        sha256: of the whole text, by which a checkpoint knows it again.

    Raises:
        ValueError: there is nothing to predict for each stream.
    """

    def __init__(
        self,
        content: Tensor,
        vocabulary: Vocabulary,
        streams: int,
        length: int,
        carry_state: bool,
        device: torch.device,
        sha256: str = "",
    ) -> None:
        if streams < 1 or length < 1 or len(content) <= streams:
            raise ValueError(
                f"{len(content)} bytes make no {streams} streams of segments of {length}: choose fewer, or a longer text."
            )
        self._sha256 = sha256
        self.vocabulary = vocabulary
        self.length = length
        self.carry_state = carry_state
        self.device = device
        self.positions = (len(content) - 1) // streams
        self._inputs, self._targets = side_by_side(content, streams, self.positions)
        self._state: HiddenState | None = None

    def __len__(self) -> int:
        return -(-self.positions // self.length)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Symbols ``[positions, streams]``, and those that follow each of them ``[positions * streams]``; all epochs are alike."""
        if start == 0:
            self._state = None
        for batch in range(start, len(self)):
            which = slice(batch * self.length, (batch + 1) * self.length)
            inputs, targets = (self.vocabulary.encode(part[which]).to(self.device) for part in (self._inputs, self._targets))
            yield inputs, targets.flatten()

    def logits(self, model: RecurrentModel, inputs: Tensor) -> Tensor:
        """``[positions * streams, symbols]``; takes up the state, and keeps that after the segment for the next one."""
        logits, state = model(inputs, self._state)
        if self.carry_state:
            self._state = tuple(part.detach() for part in checked(state, inputs.shape[1]))
        return logits.flatten(0, 1)

    def state_dict(self) -> dict[str, Any]:
        return {"text": self._sha256, "state": self._state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`.

        Raises:
            UserError: it is of another text.
        """
        if state_dict["text"] != self._sha256:
            raise UserError(
                "the text has changed since the checkpoint was written: give the former one, or remove the run's directory."
            )
        state = state_dict["state"]
        self._state = None if state is None else tuple(part.to(self.device) for part in state)


def checked(state: HiddenState, streams: int) -> HiddenState:
    """The state.

    Raises:
        TypeError: it isn't a :data:`HiddenState` of so many streams.
    """
    if not isinstance(state, tuple) or any(part.dim() < 2 or part.shape[1] != streams for part in state):
        raise TypeError(
            f"a model's state is to be a tuple of tensors [layers, streams={streams}, ...]: give it a forward() with one."
        )
    return state


def side_by_side(content: Tensor, streams: int, positions: int) -> tuple[Tensor, Tensor]:
    """The first ``positions`` of each stream: its bytes, and those that follow each of them; ``[positions, streams]`` views."""
    end = streams * positions
    return content[:end].view(streams, positions).T, content[1 : end + 1].view(streams, positions).T
