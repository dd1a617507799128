"""Bits per character of language models, and text that they generate.

A part of a text is predicted from its first byte to its last with carried state: each byte except the first, from all bytes before
it. It is read as several streams side by side, which is fast. A stream begins with the state in which the previous stream ends, so
the numbers don't depend on the number of streams. Memory doesn't grow with the length of the text, except for a number or two for
each ``STREAMS * SEGMENT`` bytes.

A model without a state has a ``context`` of C positions. The part is then cut into windows of C bytes that follow each other, from
its first byte on; the last one may be shorter. Each byte except the first is predicted once, from the 1 to C bytes before it that
are in its window. Windows overlap by one byte, which is predicted in one and read in the next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from late_phase.data.segments import HiddenState, RecurrentModel, checked, context_of, side_by_side
from late_phase.data.text import Vocabulary
from late_phase.ensemble import ensemble_log_probs
from late_phase.evaluation.metrics import label_log_probs
from late_phase.evaluation.predictors import Predictor

STREAMS = 128
SEGMENT = 256
"""Positions of each stream that are predicted at a time."""

SHORTEST = 1024
"""The fewest positions of a stream."""

TOLERANCE = 1e-7
"""The relative difference between sums over a segment that counts as rounding."""

PROMPT, SAMPLE = 100, 400
"""Bytes of a text that a sample continues, and bytes of the sample."""


@dataclass(frozen=True)
class Bits:
    """Bits per character, that is per byte: of the mean of the members' predictive distributions, and of each member."""

    mean: float
    members: tuple[float, ...]


@torch.no_grad()
def bits_per_character(
    predictor: Predictor, content: Tensor, vocabulary: Vocabulary, device: torch.device, streams: int = STREAMS
) -> Bits:
    """Returns the bits per character of the bytes ``content`` ``[n]``, of which n - 1 are predicted.

    Args:
        predictor: yields :data:`late_phase.data.segments.RecurrentModel` s, which read forwards only and draw nothing at random.
            They all have the same ``context``, or none has.
        streams: streams of a model with a state.

    Raises:
        ValueError: there are fewer than two bytes, or a byte is not in the vocabulary.
        TypeError: a model's state isn't a :data:`late_phase.data.segments.HiddenState`.
    """
    n = len(content) - 1
    if n < 1:
        raise ValueError(f"{n + 1} bytes leave nothing to predict: pass at least two, as each prediction needs a byte before it.")
    contexts = [context_of(model) for model in predictor()]
    how = (vocabulary, device, [None] * len(contexts))
    if contexts[0] is None:
        sums = sums_of_streams(predictor, content, *how, max(1, min(streams, n // SHORTEST)))
    else:
        sums = sums_of_windows(predictor, content, *how, contexts[0])
    # With 0 - x, a vocabulary of one byte gives 0, where -x would give -0.
    mean, *members = ((0 - torch.stack(sums).sum(0)) / (n * math.log(2))).tolist()
    return Bits(mean, tuple(members))


def sums_of_windows(
    predictor: Predictor, content: Tensor, vocabulary: Vocabulary, device: torch.device, states: Sequence[None], context: int
) -> list[Tensor]:
    """Returns the sums of :func:`total_log_probs` for windows of ``context`` bytes, and for the rest of the text."""
    windows = (len(content) - 1) // context
    whole = side_by_side(content, windows, context)
    rest = side_by_side(content[windows * context :], 1, len(content) - 1 - windows * context)
    blocks = [*zip(*(part.split(STREAMS, 1) for part in whole), strict=True), rest]
    return [total_log_probs(predictor, *block, states, vocabulary, device)[0] for block in blocks if block[0].numel()]


def sums_of_streams(
    predictor: Predictor,
    content: Tensor,
    vocabulary: Vocabulary,
    device: torch.device,
    states: Sequence[HiddenState | None],
    streams: int,
) -> list[Tensor]:
    """Returns the sums of :func:`total_log_probs` for segments of streams, which begin with the states in which others ended.

    In the first pass, all streams begin with zeros. In each further pass, a stream begins with the state in which the stream before
    it ended. Reading ends as soon as this makes no difference to the predictions of a whole segment, which is soon for a model
    that forgets. For a model that doesn't forget, each pass makes one more stream right. States aren't compared, because trained
    models keep details in them for thousands of bytes that never show in a prediction.
    """
    n = len(content) - 1
    positions = n // streams
    main = side_by_side(content, streams, positions)
    rest = side_by_side(content[streams * positions :], 1, n - streams * positions)
    sums: list[Tensor] = []  # one for each segment

    def read(states: Sequence[HiddenState | None]) -> list[HiddenState] | None:
        """Returns the states at the end, or None if from some segment on all is as it was in the previous pass."""
        for segment, (inputs, targets) in enumerate(zip(*(part.split(SEGMENT) for part in main), strict=True)):
            now, states = total_log_probs(predictor, inputs, targets, states, vocabulary, device)
            as_before = segment < len(sums) and same(now, sums[segment], states)
            sums[segment : segment + 1] = [now]
            if as_before:
                return None
        return states

    end = read(states)
    for _ in range(streams - 1):
        again = read([handed_on(state) for state in end])
        if again is None:
            break
        end = again
    if len(rest[0]):
        last = [tuple(part[:, -1:].contiguous() for part in state) for state in end]
        sums.append(total_log_probs(predictor, *rest, last, vocabulary, device)[0])
    return sums


def same(one: Tensor, other: Tensor, states: Sequence[HiddenState]) -> bool:
    """Tells whether two passes give equal sums, up to the rounding in sums of many numbers of the states' type."""
    types = [part.dtype for state in states for part in state if part.is_floating_point()]
    tolerance = max([TOLERANCE, *(torch.finfo(dtype).eps / 100 for dtype in types)])
    return torch.allclose(one, other, atol=0, rtol=tolerance, equal_nan=True)


def total_log_probs(
    predictor: Predictor,
    inputs: Tensor,
    targets: Tensor,
    states: Sequence[HiddenState | None],
    vocabulary: Vocabulary,
    device: torch.device,
) -> tuple[Tensor, list[HiddenState]]:
    """Returns log-probabilities summed over positions and streams, and the members' states at the end.

    The sums are in nats, float64: first for the mean of the members' distributions, then for each member.

    Args:
        inputs, targets: bytes and the bytes that follow each of them, ``[positions, streams]``.
        states: each member's state at the beginning.
    """
    inputs, targets = vocabulary.encode(inputs).to(device), vocabulary.encode(targets).to(device).flatten()
    own, after = [], []
    for model, before in zip(predictor(), states, strict=True):
        logits, state = model(inputs, before)
        own.append(label_log_probs(log_probs(logits).flatten(0, 1), targets))
        after.append(checked(state, len(inputs[0])))
    members = torch.stack(own).double()
    return torch.stack([ensemble_log_probs(members), *members]).sum(-1).cpu(), after


def log_probs(logits: Tensor) -> Tensor:
    return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)


def handed_on(state: HiddenState) -> HiddenState:
    """Returns the states at the ends of streams as those with which the next streams begin.

    The first stream begins with zeros.
    """
    return tuple(torch.cat((torch.zeros_like(part[:, :1]), part[:, :-1]), 1) for part in state)


@torch.no_grad()
def generate(model: RecurrentModel, prompt: Tensor, length: int, random: torch.Generator) -> Tensor:
    """Draws symbols ``[length]`` one by one from the model's predictions, to continue the symbols ``prompt`` ``[n]``."""
    context = context_of(model)
    symbols, state, drawn = prompt[:, None] if context is None else prompt[-context:, None], None, []
    for _ in range(length):
        logits, state = model(symbols, state)
        probs = log_probs(logits[-1, 0]).exp().cpu()
        drawn.append(torch.multinomial(probs, 1, generator=random))
        following = drawn[-1][None].to(prompt.device)
        symbols = following if context is None else torch.cat((symbols, following))[-context:]
    return torch.cat(drawn)


def printable(content: bytes) -> str:
    """Returns a text for the screen. Invalid UTF-8, and what a terminal may take for a command, is shown as �."""
    text = content.decode(errors="replace").replace("\r\n", "\n")
    return "".join(character if character.isprintable() or character in "\n\t" else "�" for character in text)


def measure(
    predictors: Mapping[str, Predictor], parts: Mapping[str, Tensor], vocabulary: Vocabulary, device: torch.device
) -> dict[str, dict[str, float]]:
    """Returns the bits per character of each part of a text, ``<part>_bpc``, by predictor.

    For a predictor with several members, ``<part>_member_bpc`` is the mean of the members' own.
    """
    numbers: dict[str, dict[str, float]] = {name: {} for name in predictors}
    for name, part in tqdm([(name, part) for name in predictors for part in parts], "BPC", leave=False, disable=None):
        bits = bits_per_character(predictors[name], parts[part], vocabulary, device)
        numbers[name][f"{part}_bpc"] = bits.mean
        if len(bits.members) > 1:
            numbers[name][f"{part}_member_bpc"] = sum(bits.members) / len(bits.members)
    return numbers
