"""Random windows of a text: all places alike, the same again after an interruption, and what follows each byte."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from late_phase.data.text import Vocabulary
from late_phase.data.windows import Windows
from late_phase.support.errors import UserError

CPU = torch.device("cpu")
VOCABULARY = Vocabulary(tuple(range(256)))


def counted(n: int) -> Tensor:
    """Bytes that tell their place."""
    return torch.arange(n, dtype=torch.uint8)


def windows(n: int = 100, count: int = 3, length: int = 10, seed: int = 0, **options: int | str) -> Windows:
    return Windows(counted(n), VOCABULARY, count, length, seed, CPU, **options)


def test_each_symbol_is_followed_by_its_target():
    (inputs, targets), *_ = windows().epoch(0)
    assert inputs.shape == (10, 3) and inputs.dtype == torch.int64
    assert torch.equal(inputs - inputs[:1], torch.arange(10)[:, None].expand(-1, 3))
    assert torch.equal(targets.view(10, 3), inputs + 1)


def test_all_places_are_equally_likely():
    """Those at both ends, too: the last byte is predicted, but never read."""
    places = torch.cat([inputs[0] for inputs, _ in windows(30, 2, 10, minibatches=10_000, seed=3).epoch(0)])
    counts = torch.bincount(places, minlength=20)
    assert len(counts) == 20
    expected = len(places) / 20
    assert ((counts - expected).abs() < 5 * expected**0.5).all()


def test_an_epoch_depends_on_the_seed_and_its_number_and_begins_anywhere():
    whole = list(windows(minibatches=6).epoch(2))
    rest = list(windows(minibatches=6).epoch(2, 4))
    assert len(whole) == 6 and len(rest) == 2
    assert all(torch.equal(a, b) for one, other in zip(whole[4:], rest, strict=True) for a, b in zip(one, other, strict=True))
    for other in (windows(minibatches=6).epoch(3), windows(minibatches=6, seed=1).epoch(2)):
        assert not torch.equal(next(other)[0], whole[0][0])


def test_an_epoch_predicts_about_as_many_bytes_as_the_text_has():
    assert [len(windows(n)) for n in (31, 60, 61, 99)] == [1, 1, 2, 3]
    assert len(windows(minibatches=7)) == 7


def test_a_model_gets_windows_without_a_state():
    given = []

    def model(inputs: Tensor, state: None) -> tuple[Tensor, tuple[()]]:
        given.append(state)
        return inputs[..., None].repeat(1, 1, 256), ()

    inputs, targets = next(windows().epoch(0))
    logits = windows().outputs(model, inputs)
    assert given == [None] and logits.shape == (len(targets), 256)
    assert torch.equal(logits[:, 0] + 1, targets)


def test_the_text_of_a_checkpoint_can_not_be_another_one():
    first = windows(sha256="abc")
    windows(sha256="abc").load_state_dict(first.state_dict())
    with pytest.raises(UserError, match=r"^the text has changed since the checkpoint was written .*\.$"):
        windows(sha256="abd").load_state_dict(first.state_dict())


@pytest.mark.parametrize(
    ("n", "count", "length", "options"), [(30, 3, 10, {}), (99, 0, 10, {}), (99, 3, 0, {}), (99, 3, 10, {"minibatches": 0})]
)
def test_what_is_no_minibatch_is_refused(n, count, length, options):
    few = f"{n} bytes are too few for a minibatch of {count} windows of {length} bytes: choose"
    with pytest.raises(ValueError, match=re.escape(few)):
        windows(n, count, length, **options)
