"""Minibatches of text: streams that are read side by side, and the hidden state of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from late_phase.data.batches import Batches, refuse_change
from late_phase.data.text import Vocabulary

HiddenState = tuple[Tensor, ...]
"""What a model remembers of the text before a segment: tensors ``[layers, streams, ...]``; for an LSTM, h and c.

A model that remembers nothing has an empty state and predicts each segment by itself. A model that looks back at the last symbols
may keep them as integers.
"""

RecurrentModel = Callable[[Tensor, HiddenState | None], tuple[Tensor, HiddenState]]
"""A model of text.

It takes symbols ``[positions, streams]`` and the state before them, None for zeros. It returns logits
``[positions, streams, symbols]`` and the state after them. A model that takes only so many positions at a time, and remembers
nothing, says how many by an attribute ``context``. Its streams are windows that have nothing to do with each other.
"""


def context_of(model: Any) -> int | None:
    """Returns the most positions of a model without a hidden state, or None for a model that reads on and on.

    Args:
        model: the model, or its config.
    """
    return getattr(model, "context", None)


class Segments(Batches):
    """Segments of a text. A minibatch is the next ``length`` positions of each stream.

    The text is cut into ``streams`` pieces of equal length. An epoch reads them side by side, from the first byte to the last. At
    the end of the text, at most one byte per stream is left over. The last segment of an epoch may be shorter.

    The hidden state belongs to the streams. An epoch begins with zeros, and each further segment with the state in which the
    previous one ended. No gradient flows through the state. With late-phase weights, the previous segment was another member's
    inner step, so each member continues from the state of the member before it.

    Args:
        content: ``[bytes]`` uint8, mapped into memory or not.
        carry_state: False to begin every segment with zeros.
        device: where the minibatches are wanted.
        sha256: checksum of the whole text; a checkpoint recognizes the text by it.

    Raises:
        ValueError: the text is too short to predict a byte in each stream, or a number is below 1.
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
                f"{len(content)} bytes can't be cut into {streams} streams of segments of {length}: choose fewer, or a longer text."
            )
        self._sha256 = sha256
        self.vocabulary = vocabulary
        self.length = length
        self.carry_state = carry_state
        self.independent = not carry_state
        self.device = device
        self.positions = (len(content) - 1) // streams
        self._inputs, self._targets = side_by_side(content, streams, self.positions)
        self._state: HiddenState | None = None

    def __len__(self) -> int:
        return -(-self.positions // self.length)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields symbols ``[positions, streams]``, and the symbols that follow each of them ``[positions * streams]``.

        All epochs are alike.
        """
        if start == 0:
            self._state = None
        for batch in range(start, len(self)):
            which = slice(batch * self.length, (batch + 1) * self.length)
            inputs, targets = (self.vocabulary.encode(part[which]).to(self.device) for part in (self._inputs, self._targets))
            yield inputs, targets.flatten()

    def outputs(self, model: RecurrentModel, inputs: Tensor) -> Tensor:
        """Returns ``[positions * streams, symbols]``, continuing from the kept state.

        With ``carry_state``, the state after the segment is kept for the next one.
        """
        logits, state = model(inputs, self._state)
        if self.carry_state:
            self._state = tuple(part.detach() for part in checked(state, inputs.shape[1]))
        return logits.flatten(0, 1)

    def state_dict(self) -> dict[str, Any]:
        return {"text": self._sha256, "state": self._state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`.

        Raises:
            UserError: the state belongs to another text.
        """
        refuse_change("text", state_dict["text"], self._sha256)
        state = state_dict["state"]
        self._state = None if state is None else tuple(part.to(self.device) for part in state)


def checked(state: HiddenState, streams: int) -> HiddenState:
    """Returns the state after a check.

    Raises:
        TypeError: it isn't a :data:`HiddenState` of this number of streams.
    """
    if not isinstance(state, tuple) or any(part.dim() < 2 or part.shape[1] != streams for part in state):
        raise TypeError(
            f"a model's state must be a tuple of tensors [layers, streams={streams}, ...]: return one from its forward()."
        )
    return state


def side_by_side(content: Tensor, streams: int, positions: int) -> tuple[Tensor, Tensor]:
    """Returns the first ``positions`` bytes of each stream, and the bytes that follow each; ``[positions, streams]`` views."""
    end = streams * positions
    return content[:end].view(streams, positions).T, content[1 : end + 1].view(streams, positions).T
