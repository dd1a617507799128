"""The language model against torch's own layers, and its rank-1 weights against explicit matrices."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from late_phase import head
from late_phase.architectures import build
from late_phase.architectures.lstm import LSTM
from late_phase.layers.fold import fold
from late_phase.layers.rank1 import Rank1, parametrize_rank1, rank1


def scattered(symbols: int = 11, units: int = 7, **options: int) -> LSTM:
    """A model whose weights are large enough to matter, in double precision."""
    torch.manual_seed(0)
    model = LSTM(symbols, units, **options).double()
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.5)
    return model


def by_hand(model: LSTM, recurrent: Tensor, symbols: Tensor) -> Tensor:
    """Logits, from the equations of an LSTM with one bias, a position at a time."""
    h = c = torch.zeros(symbols.shape[1], model.lstm.hidden_size, dtype=torch.float64)
    logits = []
    for position in symbols:
        x = model.embedding.weight[position]
        i, f, g, o = (x @ model.lstm.weight_ih_l0.T + h @ recurrent.T + model.lstm.bias_ih_l0).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        logits.append(h @ model.head.weight.T + model.head.bias)
    return torch.stack(logits)


def trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_the_papers_model_has_its_number_of_parameters():
    with torch.device("meta"):
        model = build("lstm", 205, units=500)
        assert trained(model) == 1_556_730
        parametrize_rank1(model, matrices="lstm.weight_hh_l0")
        assert trained(model) == 1_556_730 + 2_000 + 500
    assert head().names(model) == ["head.weight", "head.bias"]


def test_all_weights_start_in_a_hundredth_around_zero():
    model = build("lstm", 50, units=100)
    for name, parameter in model.named_parameters():
        if name == "lstm.bias_hh_l0":
            assert not parameter.any() and not parameter.requires_grad
        else:
            assert parameter.abs().max() <= 0.01, name
            assert parameter.std().item() == pytest.approx(0.01 / 3**0.5, rel=0.2), name


def test_it_is_an_lstm_with_one_bias():
    model = scattered(embedding=5)
    symbols = torch.randint(11, (9, 3))
    logits, (h, c) = model(symbols)
    torch.testing.assert_close(logits, by_hand(model, model.lstm.weight_hh_l0, symbols))
    assert h.shape == c.shape == (1, 3, 7)
    first, state = model(symbols[:4])
    second, _ = model(symbols[4:], state)
    torch.testing.assert_close(torch.cat((first, second)), logits)


def test_rank1_with_ones_is_the_plain_model_exactly():
    for model in (scattered(), scattered().float()):
        plain = copy.deepcopy(model)
        parametrize_rank1(model, matrices="lstm.weight_hh_l0")
        assert isinstance(model.lstm, nn.LSTM)
        symbols = torch.randint(11, (9, 3))
        (logits, state), (expected, expected_state) = model(symbols), plain(symbols)
        assert torch.equal(logits, expected)
        assert all(torch.equal(a, b) for a, b in zip(state, expected_state, strict=True))


def test_gradients_of_u_and_v_are_those_through_the_explicit_matrix():
    model = scattered()
    parametrize_rank1(model, 0.5, torch.Generator().manual_seed(0), "lstm.weight_hh_l0")
    (matrix,) = (module for module in model.modules() if isinstance(module, Rank1))
    theta = model.lstm.parametrizations.weight_hh_l0.original
    symbols, targets = torch.randint(11, (2, 9, 3))
    weights = [matrix.u, matrix.v, theta]
    loss = F.cross_entropy(model(symbols)[0].flatten(0, 1), targets.flatten())
    gradients = torch.autograd.grad(loss, weights)
    recurrent = matrix.u[:, None] * matrix.v[None, :] * theta
    expected = F.cross_entropy(by_hand(model, recurrent, symbols).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(loss, expected)
    for gradient, other in zip(gradients, torch.autograd.grad(expected, weights), strict=True):
        assert gradient.abs().max() > 1e-4
        torch.testing.assert_close(gradient, other)


def test_folding_leaves_a_plain_model_and_changes_the_logits_by_rounding_only():
    model = scattered().float()
    plain = LSTM(11, 7)
    parametrize_rank1(model, 0.5, torch.Generator().manual_seed(0), "lstm.weight_hh_l0")
    symbols = torch.randint(11, (50, 3))
    with torch.no_grad():
        expected = model(symbols)[0]
        folded = fold(copy.deepcopy(model))
        assert type(folded.lstm) is nn.LSTM
        assert [name for name, _ in folded.named_parameters()] == [name for name, _ in plain.named_parameters()]
        plain.load_state_dict(folded.state_dict(), strict=True)
        for other in (folded, plain):
            torch.testing.assert_close(other(symbols)[0], expected, rtol=1e-5, atol=1e-5)
            assert not torch.allclose(expected, scattered().float()(symbols)[0], atol=0.1)


def test_only_matrices_of_a_name_are_multiplied():
    model = LSTM(11, 7)
    parametrize_rank1(model, matrices="lstm.weight_hh_l0")
    assert rank1().names(model) == [f"lstm.parametrizations.weight_hh_l0.0.{key}" for key in "uv"]
    everywhere = LSTM(11, 7)
    parametrize_rank1(everywhere)
    assert {name.split(".")[0] for name in rank1().names(everywhere)} == {"lstm", "head"}
    with pytest.raises(ValueError, match=r"^matrices='lstm' matches none of the weights lstm\.weight_hh_l0, head\.weight: choose"):
        parametrize_rank1(LSTM(11, 7), matrices="lstm")


def test_a_pass_makes_the_product_once(monkeypatch):
    calls, forward = [], Rank1.forward
    monkeypatch.setattr(Rank1, "forward", lambda self, weight: calls.append(1) or forward(self, weight))
    model = LSTM(11, 7)
    parametrize_rank1(model, matrices="lstm.weight_hh_l0")
    calls.clear()
    for twin in (model, copy.deepcopy(model)):
        twin(torch.randint(11, (9, 3)))
    assert len(calls) == 2


@pytest.mark.parametrize(("units", "embedding", "named"), [(0, None, "units=0"), (5, 0, "embedding=0")])
def test_widths_are_checked(units, embedding, named):
    with pytest.raises(ValueError, match=rf"^architecture\.{named} is out of range: choose at least 1\.$"):
        build("lstm", 11, units=units, embedding=embedding)


@pytest.mark.gpu
def test_on_a_gpu_the_fused_pass_trains_u_and_v():
    model = scattered().float()
    parametrize_rank1(model, 0.5, matrices="lstm.weight_hh_l0")
    symbols = torch.randint(11, (9, 3))
    expected = model(symbols)[0]
    on_gpu = copy.deepcopy(model).cuda()
    logits, _ = on_gpu(symbols.cuda())
    torch.testing.assert_close(logits.cpu(), expected, rtol=1e-3, atol=1e-3)
    for module in (expected, logits):
        module.square().sum().backward()
    for (name, one), other in zip(model.named_parameters(), on_gpu.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(other.grad.cpu(), one.grad, rtol=1e-2, atol=1e-2, msg=name)
