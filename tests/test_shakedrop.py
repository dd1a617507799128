"""ShakeDrop against its formulas, draw by draw and on average."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from late_phase.layers.shakedrop import ShakeDrop


def factors(survival: float, examples: int = 8, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """One call's factors ``[examples]``, forward and backward, which must be the same for all numbers of an example."""
    x = torch.rand(examples, 3, 2, 2, dtype=dtype).add_(1).requires_grad_()
    out = ShakeDrop(survival)(x)
    upstream = torch.rand(out.shape, dtype=dtype) + 1
    out.backward(upstream)
    pair = []
    for ratio in (out.detach() / x.detach(), x.grad / upstream):
        ratio = ratio.flatten(1)
        torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=0, atol=1e-9)
        pair.append(ratio[:, 0])
    return pair[0], pair[1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_a_branch_that_always_survives_is_left_alone_bit_for_bit(training, dtype):
    torch.manual_seed(0)
    layer = ShakeDrop(1.0).train(training)
    for _ in range(20):
        x = torch.randn(4, 3, 2, 2, dtype=dtype, requires_grad=True)
        out = layer(x)
        upstream = torch.randn_like(out)
        out.backward(upstream)
        assert out.dtype == dtype
        assert torch.equal(out, x) and torch.equal(x.grad, upstream)


def test_forward_and_backward_factors():
    """With b = 1 both are 1; with b = 0 they are α in [-1, 1] and β in [0, 1], all different. b is one for the whole minibatch."""
    torch.manual_seed(0)
    calls = [factors(0.6) for _ in range(500)]
    survived = [bool((forward == 1).all() and (backward == 1).all()) for forward, backward in calls]
    assert abs(sum(survived) / 500 - 0.6) < 4 * (0.6 * 0.4 / 500) ** 0.5
    shaken = [pair for pair, one in zip(calls, survived, strict=True) if not one]
    alpha, beta = (torch.cat(values) for values in zip(*shaken, strict=True))
    assert len(alpha.unique()) == len(alpha) and len(beta.unique()) == len(beta)
    for values, low, width in ((alpha, -1, 2), (beta, 0, 1)):
        n = len(values)
        assert values.min() >= low - 1e-9 and values.max() <= low + width + 1e-9
        assert abs(values.mean() - low - width / 2) < 4 * width / (12 * n) ** 0.5
        # A uniform variable's fourth central moment is width⁴ / 80: so much does its variance, width² / 12, vary.
        assert abs(values.var() - width**2 / 12) < 4 * width**2 * ((1 / 80 - 1 / 144) / n) ** 0.5
    assert abs(torch.corrcoef(torch.stack([alpha, beta]))[0, 1]) < 4 / len(alpha) ** 0.5


def test_a_branch_that_never_survives_is_always_shaken():
    torch.manual_seed(0)
    forward, backward = factors(0.0, examples=1000)
    assert (forward != 1).all() and (backward != 1).all()


@pytest.mark.parametrize("survival", [0.0, 0.3, 0.5, 0.9])
def test_in_eval_mode_it_is_the_mean_of_its_draws(survival):
    torch.manual_seed(0)
    layer = ShakeDrop(survival)
    x = torch.randn(4, 2, dtype=torch.float64)
    draws = torch.stack([layer(x) for _ in range(4000)])
    expected = layer.eval()(x)
    assert torch.equal(expected, survival * x)
    assert ((draws.mean(0) - expected).abs() < 4 * draws.std(0) / 4000**0.5).all()


def test_draws_are_those_of_the_global_generator():
    """In eval mode there are none."""
    layer, x = ShakeDrop(0.5), torch.randn(4, 3, 2, 2)

    def draws() -> Tensor:
        torch.manual_seed(7)
        return torch.stack([layer(x) for _ in range(10)])

    assert torch.equal(draws(), draws())
    before = torch.get_rng_state()
    layer.eval()(x)
    assert torch.equal(before, torch.get_rng_state())


def test_it_has_nothing_to_save():
    assert not ShakeDrop(0.5).state_dict() and not list(ShakeDrop(0.5).parameters())


def test_examples_of_any_shape():
    for shape in ((4,), (4, 2), (4, 2, 3), (4, 2, 3, 5)):
        assert ShakeDrop(0.0)(torch.randn(shape)).shape == shape


def test_inside_of_autocast_it_keeps_the_type_of_the_branch():
    layer = nn.Sequential(nn.Conv2d(3, 3, 1), ShakeDrop(0.0))
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(torch.randn(4, 3, 2, 2))
    assert out.dtype == torch.bfloat16
    out.sum().backward()


def test_it_compiles_into_one_graph():
    """With the factors as they should be; other random numbers than without compilation may be drawn."""
    torch.manual_seed(0)
    layer = torch.compile(ShakeDrop(0.5), fullgraph=True, backend="aot_eager")
    seen = set()
    for _ in range(20):
        x = torch.ones(4, 1, requires_grad=True)
        out = layer(x)
        out.sum().backward()
        seen.add(bool((out == 1).all()))
        assert (x.grad == 1).all() == (out == 1).all()
        assert (out.abs() <= 1).all() and (x.grad >= 0).all() and (x.grad <= 1).all()
    assert seen == {False, True}


@pytest.mark.gpu
def test_on_a_gpu_no_number_comes_back():
    """Whether the branch survives is decided on the device, where the draws are from its own generator."""
    layer, x = ShakeDrop(0.5), torch.randn(4, 3, 2, 2, device="cuda", requires_grad=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda.manual_seed(3)
        first = layer(x)
        first.sum().backward()
        torch.cuda.manual_seed(3)
        second = layer(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(first, second)
