"""Streams of a text: every byte in its order, and the hidden state that goes along with it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import reference
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from late_phase import LatePhase
from late_phase.architectures.lstm import LSTM
from late_phase.data.segments import Segments
from late_phase.data.text import Text, Vocabulary
from late_phase.evaluation.predictors import Single
from late_phase.evaluation.text import bits_per_character
from late_phase.layers.rank1 import parametrize_rank1, rank1
from late_phase.support.errors import UserError

CPU = torch.device("cpu")
VOCABULARY = Vocabulary(tuple(range(97, 123)))


def letters(n: int, seed: int = 0) -> Tensor:
    return torch.randint(97, 123, (n,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


class Counter:
    """A recurrent model whose state counts its positions and knows of a gradient."""

    def __init__(self) -> None:
        self.given: list[float | None] = []

    def __call__(self, symbols: Tensor, state: tuple[Tensor] | None) -> tuple[Tensor, tuple[Tensor]]:
        self.given.append(None if state is None else state[0][0, 0].item())
        assert state is None or not state[0].requires_grad
        before = torch.zeros(1, symbols.shape[1]) if state is None else state[0]
        return torch.zeros(*symbols.shape, 26), ((before + len(symbols)).requires_grad_(),)


@pytest.mark.parametrize("n", [41, 100, 103, 121])
@pytest.mark.parametrize("streams", [1, 4])
@pytest.mark.parametrize("length", [1, 7, 10])
def test_an_epoch_reads_each_stream_from_its_first_byte_to_its_last(n, streams, length):
    content = letters(n)
    segments = Segments(content, VOCABULARY, streams, length, True, CPU)
    minibatches = list(segments.epoch(0))
    assert len(minibatches) == len(segments)
    positions = (n - 1) // streams
    assert n - 1 - streams * positions < streams  # left over
    inputs = torch.cat([x for x, _ in minibatches])
    targets = torch.cat([y.view(-1, streams) for _, y in minibatches])
    for i in range(streams):
        assert bytes(content[i * positions : (i + 1) * positions].tolist()) == VOCABULARY.decode(inputs[:, i])
        assert bytes(content[i * positions + 1 : (i + 1) * positions + 1].tolist()) == VOCABULARY.decode(targets[:, i])
    assert [len(x) for x, _ in minibatches[:-1]] == [length] * (len(segments) - 1)
    for (x, y), (again_x, again_y) in zip(minibatches[2:], segments.epoch(5, 2), strict=True):
        assert torch.equal(x, again_x) and torch.equal(y, again_y)


def test_a_segment_begins_with_the_state_in_which_the_one_before_it_ended():
    segments, model = Segments(letters(100), VOCABULARY, 3, 10, True, CPU), Counter()
    for epoch in range(2):
        for inputs, labels in segments.epoch(epoch):
            assert segments.outputs(model, inputs).shape == (len(labels), 26)
    assert model.given == 2 * [None, 10.0, 20.0, 30.0]


def test_without_carried_state_each_segment_begins_with_zeros():
    segments, model = Segments(letters(100), VOCABULARY, 3, 10, False, CPU), Counter()
    for inputs, _ in segments.epoch(0):
        segments.outputs(model, inputs)
    assert model.given == [None] * 4


def test_the_state_survives_an_interruption():
    first, model = Segments(letters(100), VOCABULARY, 3, 10, True, CPU, "abc"), Counter()
    for inputs, _ in list(first.epoch(0))[:2]:
        first.outputs(model, inputs)
    second = Segments(letters(100), VOCABULARY, 3, 10, True, CPU, "abc")
    second.load_state_dict(first.state_dict())
    for inputs, _ in second.epoch(0, 2):
        second.outputs(model, inputs)
    assert model.given == [None, 10.0, 20.0, 30.0]
    with pytest.raises(UserError, match=r"^the text has changed since the checkpoint was written .*\.$"):
        Segments(letters(100), VOCABULARY, 3, 10, True, CPU, "abd").load_state_dict(first.state_dict())


def test_a_text_without_a_prediction_for_each_stream_is_refused():
    for content, streams, length in ((letters(4), 4, 10), (letters(0), 1, 10), (letters(9), 0, 10), (letters(9), 2, 0)):
        with pytest.raises(ValueError, match=r"bytes can't be cut into \d streams of segments of \d+: choose fewer.* text\.$"):
            Segments(content, VOCABULARY, streams, length, True, CPU)
    assert len(Segments(letters(5), VOCABULARY, 4, 10, True, CPU)) == 1


class GRU(nn.Module):
    """Its state is a tensor, no tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(26, 26)

    def forward(self, symbols: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.layer(F.one_hot(symbols, 26).float(), state)


def test_a_state_of_another_form_is_refused():
    segments = Segments(letters(100), VOCABULARY, 3, 10, True, CPU)
    with pytest.raises(TypeError, match=r"^a model's state must be a tuple of tensors \[layers, streams=3, \.\.\.\]: return one"):
        segments.outputs(GRU(), next(segments.epoch(0))[0])
    with pytest.raises(TypeError, match="a tuple of tensors"):
        bits_per_character(Single(GRU()), letters(100), VOCABULARY, CPU)


class Carrying(nn.Module):
    """What a user would write without us: a model that remembers its state."""

    def __init__(self, model: LSTM) -> None:
        super().__init__()
        self.model, self.state = model, None

    def forward(self, symbols: Tensor) -> Tensor:
        logits, state = self.model(symbols, self.state)
        self.state = tuple(part.detach() for part in state)
        return logits.flatten(0, 1)


def test_a_member_takes_up_the_state_where_the_member_before_it_left_off():
    """Algorithm 1 written down literally, with one state that all members have in turn."""
    torch.manual_seed(0)
    model = LSTM(26, units=5).double()
    parametrize_rank1(model, 0.01, matrices="lstm.*")
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter) * parameter.requires_grad
    twin = LSTM(26, units=5).double()
    parametrize_rank1(twin, matrices="lstm.*")
    twin.load_state_dict(model.state_dict())
    literal = reference.LatePhaseReference(Carrying(twin), reference.adam(1e-2, 0.0))
    del literal.theta["model.lstm.bias_hh_l0"]  # it isn't trained

    late = LatePhase(model, torch.optim.Adam(model.parameters(), 1e-2), rank1(), K=3, sigma0=0.35)
    segments = Segments(letters(500), VOCABULARY, 4, 10, True, CPU)
    given, ended = [], []

    def listen(module: nn.Module, inputs: tuple, output: tuple) -> None:
        given.append(inputs[1])
        ended.append(output[1])

    model.register_forward_hook(listen)

    def train(epoch: int) -> None:
        literal.model.state = None
        for inputs, labels in segments.epoch(epoch):
            F.cross_entropy(segments.outputs(model, inputs), labels).backward()
            late.step()
            literal.inner_step(inputs, labels)

    train(0)
    late.spawn(torch.Generator().manual_seed(0))
    members = [{f"model.{name}": value[k] for name, value in late.members.items()} for k in range(3)]
    literal.spawn(members, [], 1.0)
    train(1)
    for name, value in late.weights().items():
        if name == "lstm.bias_hh_l0":
            assert not value.any()
        elif name in late.phi:
            for k in range(3):
                torch.testing.assert_close(value[k], literal.phi[k][f"model.{name}"], rtol=1e-9, atol=1e-9)
        else:
            torch.testing.assert_close(value, literal.theta[f"model.{name}"], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(late.members[late.phi[0]][0], late.members[late.phi[0]][1], rtol=1e-2)
    epoch = len(segments)
    for j in range(epoch + 1, 2 * epoch):
        assert all(torch.equal(a, b) for a, b in zip(given[j], ended[j - 1], strict=True))
    assert given[epoch] is None


def test_the_vocabulary_is_every_byte_of_the_text_and_no_other():
    parts = [torch.tensor(list(part), dtype=torch.uint8) for part in (b"banana", b"\xffab", b"\x00b")]
    text = Text("t", *parts, sha256="")
    vocabulary = Vocabulary.of(text)
    assert vocabulary.known == (0, ord("a"), ord("b"), ord("n"), 255) and len(vocabulary) == 5
    assert vocabulary.encode(parts[0]).tolist() == [2, 1, 3, 1, 3, 1]
    assert vocabulary.decode(vocabulary.encode(parts[0])) == b"banana"
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary
    with pytest.raises(ValueError, match=r"the byte 0x63, which is not among the 5 bytes"):
        vocabulary.encode(torch.tensor([ord("a"), ord("c")], dtype=torch.uint8))


def test_the_first_bytes_of_each_part():
    text = Text("t", letters(90), letters(5, 1), letters(6, 2), "abc")
    taken = text.take(10, 4)
    assert taken.sha256 == "abc"  # of the whole
    assert torch.equal(taken.train, text.train[:10])
    assert torch.equal(taken.validation, text.validation[:4]) and torch.equal(taken.test, text.test[:4])
    for subset, test_subset in ((91, None), (1, None), (None, 6), (None, 1)):
        with pytest.raises(UserError, match=r"^dataset\.(test_)?subset=\d+ is out of range for t: choose from 2 to (90|5)\.$"):
            text.take(subset, test_subset)


MEMORY = """
import re, sys, torch
from late_phase.data import load
from late_phase.data.segments import Segments
from late_phase.data.text import Vocabulary
from late_phase.evaluation.text import bits_per_character

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

class Uniform(torch.nn.Module):
    def forward(self, symbols, state):
        return torch.zeros(*symbols.shape, 2), (torch.zeros(1, symbols.shape[1], 1),)

torch.set_num_threads(1)
def use(path):
    text = load("text_file", path=path)
    vocabulary = Vocabulary.of(text)
    segments, model = Segments(text.train, vocabulary, 128, 4096, True, torch.device("cpu")), Uniform()
    most = 0
    for inputs, labels in segments.epoch(0):
        segments.outputs(model, inputs)
        most = max(most, anonymous())
    segments.state_dict(), text.sha256
    bits = bits_per_character(lambda: iter([model]), text.test, vocabulary, torch.device("cpu"))
    assert abs(bits.mean - 1) < 1e-6, bits
    return max(most, anonymous())

use(sys.argv[1])  # what is taken once
print(use(sys.argv[1]), use(sys.argv[2]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tells mapped memory from the process' own by /proc")
def test_memory_does_not_grow_with_the_length_of_the_text(tmp_path):
    """76 MB more of it take no more than what a process' own memory varies by; what is mapped can be dropped at any time."""
    for name, size in (("short", 4_000_000), ("long", 80_000_000)):
        (tmp_path / name).write_bytes(b"ab" * (size // 2))
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "short"), str(tmp_path / "long")]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed goes back, and doesn't count
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    short, long = map(int, re.findall(r"\d+", done.stdout))
    assert long - short < 20_000, f"{short} kB, then {long} kB"
