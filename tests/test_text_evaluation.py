"""Bits per character against a computation of a byte at a time, in any number of streams."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from late_phase.architectures.gpt import GPT
from late_phase.architectures.lstm import LSTM
from late_phase.data.text import Vocabulary
from late_phase.evaluation import text
from late_phase.evaluation.predictors import Single
from late_phase.evaluation.text import bits_per_character, generate, printable
from late_phase.methods.deep_ensemble import several

CPU = torch.device("cpu")
VOCABULARY = Vocabulary((10, 97, 98, 99, 200))
LAYOUTS = (1, 2, 7, 128)


def content(n: int) -> Tensor:
    """Bytes in which there is something to be remembered."""
    drawn = torch.randint(5, (n,), generator=torch.Generator().manual_seed(0))
    drawn[1::2] = drawn[:-1:2][: len(drawn[1::2])]
    return torch.tensor(VOCABULARY.known, dtype=torch.uint8)[drawn]


def model(seed: int, remembers: bool = False) -> LSTM:
    torch.manual_seed(seed)
    model = LSTM(5, 6).double()
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.7)
    if remembers:  # the forget gate is open, and what goes in is small
        with torch.no_grad():
            model.lstm.bias_ih_l0[:6] = -7
            model.lstm.bias_ih_l0[6:12] = 40
            model.head.weight *= 3
    return model


@torch.no_grad()
def by_hand(models: list[LSTM], content: Tensor) -> tuple[float, list[float]]:
    """A byte at a time."""
    states, bits, own = [None] * len(models), 0.0, [0.0] * len(models)
    for byte, following in zip(content[:-1].tolist(), content[1:].tolist(), strict=True):
        symbol, target = VOCABULARY.known.index(byte), VOCABULARY.known.index(following)
        probs = []
        for k, one in enumerate(models):
            logits, states[k] = one(torch.tensor([[symbol]]), states[k])
            exponentials = [math.exp(value) for value in logits[0, 0].tolist()]
            probs.append(exponentials[target] / sum(exponentials))
            own[k] -= math.log2(probs[-1])
        bits -= math.log2(sum(probs) / len(probs))
    return bits / (len(content) - 1), [value / (len(content) - 1) for value in own]


@pytest.mark.parametrize("remembers", [False, True])
def test_it_is_a_byte_at_a_time_whatever_the_number_of_streams(monkeypatch, remembers):
    monkeypatch.setattr(text, "SHORTEST", 64)
    monkeypatch.setattr(text, "SEGMENT", 50)
    monkeypatch.setattr(text, "TOLERANCE", 1e-13)
    models, given = [model(0, remembers), model(1, remembers)], content(1500)
    mean, own = by_hand(models, given)
    predictor = several([Single(one) for one in models])
    for streams in LAYOUTS:
        bits = bits_per_character(predictor, given, VOCABULARY, CPU, streams)
        assert bits.mean == pytest.approx(mean, rel=1e-9), streams
        assert bits.members == pytest.approx(own, rel=1e-9), streams
    assert own[0] != pytest.approx(own[1], rel=0.01) and mean < max(own)


def test_a_model_that_forgets_is_read_little_more_than_once(monkeypatch):
    """And one that doesn't, once for each stream at most."""
    monkeypatch.setattr(text, "SHORTEST", 64)
    monkeypatch.setattr(text, "SEGMENT", 32)
    read, original = [], text.total_log_probs
    monkeypatch.setattr(text, "total_log_probs", lambda *a: read.append(a[1].numel()) or original(*a))

    def passes(one: LSTM) -> float:
        read.clear()
        bits_per_character(Single(one), content(4097), VOCABULARY, CPU, 4)
        return sum(read) / 4096

    assert 1 < passes(model(0)) < 1.2
    assert 2 < passes(model(0, remembers=True)) <= 4


def test_in_single_precision_the_layout_makes_no_difference_beyond_rounding(monkeypatch):
    monkeypatch.setattr(text, "SHORTEST", 200)
    one = model(0).float()
    values = [bits_per_character(Single(one), content(5000), VOCABULARY, CPU, streams).mean for streams in LAYOUTS]
    assert max(values) - min(values) < 1e-6


def test_the_state_is_carried_through_the_whole_text():
    """The first byte decides: without it nothing tells the second half."""
    one, given = model(0, remembers=True), content(400)
    other = given.clone()
    other[0] = VOCABULARY.known[(VOCABULARY.known.index(int(given[0])) + 1) % 5]
    halves = []
    for text_ in (given, other):
        _, states = text.total_log_probs(Single(one), text_[:200, None], text_[1:201, None], [None], VOCABULARY, CPU)
        totals, _ = text.total_log_probs(Single(one), text_[200:-1, None], text_[201:, None], states, VOCABULARY, CPU)
        halves.append(totals[0].item())
    assert abs(halves[0] - halves[1]) > 1e-6


class Once(nn.Module):
    """Knows after the last symbol whether the first one has ever been there; no other prediction depends on it."""

    def forward(self, symbols: Tensor, state: tuple[Tensor] | None) -> tuple[Tensor, tuple[Tensor]]:
        before = torch.zeros(1, symbols.shape[1]) if state is None else state[0]
        seen = ((symbols == 0).cumsum(0) + before > 0).float()
        logits = torch.zeros(*symbols.shape, 5)
        logits[..., 1] = 5 * seen * (symbols == 4)
        return logits, (seen[-1:],)


def test_what_one_stream_has_seen_comes_to_all_that_follow(monkeypatch):
    monkeypatch.setattr(text, "SHORTEST", 64)
    monkeypatch.setattr(text, "SEGMENT", 16)
    given = torch.tensor(VOCABULARY.known, dtype=torch.uint8)[
        torch.randint(1, 4, (1025,), generator=torch.Generator().manual_seed(0))
    ]
    given[3], given[10::16] = VOCABULARY.known[0], VOCABULARY.known[4]
    values = [bits_per_character(Single(Once()), given, VOCABULARY, CPU, streams).mean for streams in (1, 2, 4, 8)]
    assert values == pytest.approx([values[0]] * 4, rel=1e-7)


class Uniform(nn.Module):
    def forward(self, symbols: Tensor, state: tuple[Tensor] | None) -> tuple[Tensor, tuple[Tensor]]:
        return torch.full((*symbols.shape, 5), 0.25), (torch.zeros(1, symbols.shape[1], 1),)


@pytest.mark.parametrize("n", [2, 3, 1024, 1025, 2050, 5000])
def test_a_uniform_model_scores_the_logarithm_of_the_vocabulary(n):
    for streams in LAYOUTS:
        bits = bits_per_character(Single(Uniform()), content(n), VOCABULARY, CPU, streams)
        assert bits.mean == pytest.approx(math.log2(5), rel=1e-6)


def test_a_text_of_one_byte_takes_no_bits():
    known, one = Vocabulary((97,)), LSTM(1, 6)
    bits = bits_per_character(Single(one), torch.full((3000,), 97, dtype=torch.uint8), known, CPU)
    assert bits.mean == 0 and math.copysign(1, bits.mean) == 1


def test_less_than_two_bytes_are_refused():
    for n in (0, 1):
        with pytest.raises(ValueError, match=f"^{n} bytes leave nothing to predict"):
            bits_per_character(Single(Uniform()), content(2)[:n], VOCABULARY, CPU)


def test_a_byte_that_the_model_does_not_know_is_named():
    unknown = content(50)
    unknown[30] = 0xFE
    with pytest.raises(ValueError, match=r"^the text has the byte 0xfe, which is not among the 5 .*: choose a text"):
        bits_per_character(Single(Uniform()), unknown, VOCABULARY, CPU)


class Alternating(nn.Module):
    """Knows for sure that symbol s is followed by s + 1, or after each third position, as its state counts, by s + 2."""

    def forward(self, symbols: Tensor, state: tuple[Tensor] | None) -> tuple[Tensor, tuple[Tensor]]:
        start = 0 if state is None else int(state[0])
        steps = torch.tensor([1 + ((start + i) % 3 == 2) for i in range(len(symbols))])
        following = (symbols + steps[:, None]) % 5
        return 100.0 * nn.functional.one_hot(following, 5), (torch.tensor(start + len(symbols)),)


class Bigrams(nn.Module):
    """Predicts from the last symbol alone, and remembers nothing; or as symbols what it has seen last, which changes nothing."""

    def __init__(self, remembers: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(len(VOCABULARY), len(VOCABULARY))
        self.remembers = remembers

    def forward(self, symbols: Tensor, state: tuple[Tensor, ...] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.table(symbols), (symbols[None, -1],) if self.remembers else ()


@pytest.mark.parametrize("remembers", [False, True])
@pytest.mark.parametrize("streams", [1, 3])
def test_models_without_a_hidden_state_of_floats(streams, remembers):
    bytes_ = torch.tensor([VOCABULARY.known[i * i % len(VOCABULARY)] for i in range(5000)], dtype=torch.uint8)
    model = Bigrams(remembers)
    symbols = VOCABULARY.encode(bytes_)
    expected = F.cross_entropy(model.table(symbols[:-1]).double(), symbols[1:]).item() / math.log(2)
    bits = text.bits_per_character(Single(model), bytes_, VOCABULARY, CPU, streams)
    assert bits.mean == pytest.approx(expected, rel=1e-6)
    drawn = text.generate(model, symbols[:3], 5, torch.Generator().manual_seed(0))
    assert drawn.shape == (5,)


def gpt(seed: int) -> GPT:
    torch.manual_seed(seed)
    model = GPT(5, depth=1, heads=2, width=8, context=7).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model


@torch.no_grad()
@pytest.mark.parametrize("n", [2, 7, 8, 9, 300])
def test_a_model_without_a_state_predicts_each_byte_once_from_its_window(monkeypatch, n):
    """Windows begin at each multiple of the context, whatever the number of windows that are read at a time."""
    models, given = [gpt(0), gpt(1)], content(n)
    symbols, bits, own = VOCABULARY.encode(given), 0.0, [0.0, 0.0]
    for place in range(1, n):
        window = symbols[(place - 1) // 7 * 7 : place]
        assert 1 <= len(window) <= 7
        probs = [model(window[:, None])[0][-1, 0].softmax(0)[symbols[place]].item() for model in models]
        bits -= math.log2(sum(probs) / 2) / (n - 1)
        own = [total - math.log2(prob) / (n - 1) for total, prob in zip(own, probs, strict=True)]
    predictor = several([Single(one) for one in models])
    for at_a_time in (1, 4, 128):
        monkeypatch.setattr(text, "STREAMS", at_a_time)
        found = bits_per_character(predictor, given, VOCABULARY, CPU)
        assert found.mean == pytest.approx(bits, rel=1e-9) and found.members == pytest.approx(own, rel=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("prompt", [3, 7, 20])
def test_text_of_a_model_without_a_state_follows_its_last_symbols(prompt):
    model, symbols = gpt(0), VOCABULARY.encode(content(prompt))
    drawn = generate(model, symbols, 12, torch.Generator().manual_seed(0))
    random, expected = torch.Generator().manual_seed(0), symbols
    for _ in range(12):
        probs = model(expected[-7:, None])[0][-1, 0].softmax(0)
        expected = torch.cat((expected, torch.multinomial(probs, 1, generator=random)))
    assert torch.equal(drawn, expected[prompt:]) and len(drawn.unique()) > 2


def test_generated_text_follows_the_model_and_its_state():
    drawn = generate(Alternating(), torch.tensor([0, 1, 2]), 7, torch.Generator().manual_seed(0))
    assert drawn.tolist() == [4, 0, 1, 3, 4, 0, 2]


def test_generated_text_has_the_frequencies_of_the_predictions():
    one = model(0)
    nn.init.zeros_(one.head.weight)
    drawn = generate(one, torch.tensor([0]), 4000, torch.Generator().manual_seed(0))
    frequencies = torch.bincount(drawn, minlength=5) / 4000
    torch.testing.assert_close(frequencies.double(), one.head.bias.softmax(0), atol=0.03, rtol=0)


def test_what_a_terminal_could_take_for_a_command_is_not_printed():
    assert printable("naïve\r\n\t".encode() + b"\x1b[31m\xff\x00") == "naïve\n\t�[31m��"
