"""Flatness against a loss whose expectation is known, and against a plain loop over draws."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence

import pytest
import torch
import torch.nn.functional as F
from models import Nested, minibatches, plain
from scipy import stats
from torch import Tensor, nn

from late_phase.evaluation.flatness import Batches, Flatness, loss_changes
from late_phase.support.seeding import generator

ENOUGH = 2**40


def flatness(model: nn.Module, batches: Batches, sigmas: Sequence[float], draws: int, *arguments: int, **options: int) -> Flatness:
    return Flatness.of(sigmas, loss_changes(model, batches, sigmas, draws, *arguments, **options))


class Quadratic(nn.Module):
    """Its NLL of class 0 is Σ_i a_i w_i², with coefficients a as the input ``[examples, weights]``."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(weights, dtype=torch.float64))

    def forward(self, a: Tensor) -> Tensor:
        loss = a @ self.w**2
        return torch.stack((-loss, torch.log(-torch.expm1(-loss))), -1)


A = torch.tensor([[1.0, 2.0, 0.5, 3.0], [0.4, 0.2, 2.5, 1.0], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
WEIGHTS = [0.7, -0.5, 0.3, 0.0]


def quadratic_batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Of different sizes, so that the mean over examples is not that over batches."""
    for a in A.split(2):
        yield a, torch.zeros(len(a), dtype=torch.long)


def batches() -> list[tuple[Tensor, Tensor]]:
    (x, y), (more_x, more_y) = minibatches(2)
    return [(x, y), (more_x[:3], more_y[:3])]


def trained(model: nn.Module) -> nn.Module:
    """Running statistics that are not those of initialization, and modules in different modes."""
    for x, _ in minibatches(3, seed=1):
        model(x)
    next(iter(model.children())).eval()
    return model


def small() -> nn.Module:
    torch.manual_seed(0)
    return trained(plain())


def in_turn(model: nn.Module, sigmas: list[float], draws: int, seed: int) -> Tensor:
    """The definition, draw by draw: ``[draws, sigmas]``."""

    def loss(model: nn.Module) -> Tensor:
        with torch.no_grad():
            log_probs = [(model(x).log_softmax(1), y) for x, y in batches()]
        return torch.cat([-p[range(len(y)), y] for p, y in log_probs]).double().mean()

    model = copy.deepcopy(model).eval()
    found = torch.empty(draws, len(sigmas), dtype=torch.float64)
    for draw in range(draws):
        for j, sigma in enumerate(sigmas):
            noisy, random = copy.deepcopy(model), generator(seed, "flatness", draw)
            for w in noisy.parameters():
                w.data += sigma * w.data * torch.randn(w.shape, generator=random)
            found[draw, j] = loss(noisy) - loss(model)
    return found


def changes(model: nn.Module, sigmas: list[float], draws: int, seed: int = 0, memory: int = ENOUGH) -> Tensor:
    return torch.stack(list(loss_changes(model, batches, sigmas, draws, seed, memory)))


def test_the_expectation_of_a_quadratic_loss():
    """E δL = σ² Σ a w², and its variance 4 σ² + 2 σ⁴ times Σ (a w²)², for a the mean over examples."""
    sigmas, draws = [0.0, 0.05, 0.1, 0.2], 2000
    found = flatness(Quadratic(WEIGHTS), quadratic_batches, sigmas, draws, seed=0, memory=ENOUGH)
    terms = A.mean(0) * torch.tensor(WEIGHTS, dtype=torch.float64) ** 2
    quantile = stats.t.ppf(0.975, draws - 1)
    assert found.sigmas == tuple(sigmas) and found.draws == draws
    for sigma, mean, confidence in zip(sigmas, found.mean, found.confidence, strict=True):
        deviation = math.sqrt((4 * sigma**2 + 2 * sigma**4) * terms.square().sum() / draws)
        assert abs(mean - sigma**2 * terms.sum().item()) <= 3.5 * deviation + 1e-15
        assert confidence == pytest.approx(quantile * deviation, rel=0.1, abs=1e-15)
    assert found.mean[3] > 2 * found.confidence[3], "a signal that is larger than the noise"


def test_the_interval_covers_the_expectation():
    """In about 95 % of repetitions, also with few draws."""
    terms = A.mean(0) * torch.tensor(WEIGHTS, dtype=torch.float64) ** 2
    model, sigma, covered = Quadratic(WEIGHTS), 0.2, 0
    for seed in range(200):
        found = flatness(model, quadratic_batches, [sigma], 5, seed, ENOUGH)
        covered += abs(found.mean[0] - sigma**2 * terms.sum().item()) <= found.confidence[0]
    assert stats.binom.ppf(0.002, 200, 0.95) <= covered <= stats.binom.ppf(0.999, 200, 0.95)


def test_draws_are_common_to_all_sigmas():
    """Each draw's change is b σ + c σ²: two of its values give the others."""
    found = torch.stack(list(loss_changes(Quadratic(WEIGHTS), quadratic_batches, [0.1, 0.2, 0.3], 5)))
    c = (found[:, 1] / 0.2 - found[:, 0] / 0.1) / 0.1
    b = found[:, 0] / 0.1 - 0.1 * c
    torch.testing.assert_close(found[:, 2], 0.3 * b + 0.09 * c, rtol=1e-9, atol=1e-12)
    assert len(set(b.tolist())) == 5


def test_it_is_the_plain_loop_bit_for_bit():
    """All parameters, those of BatchNorm and biases included, and running statistics as they were."""
    model, sigmas = small(), [0.0, 0.1, 0.5]
    found = changes(model, sigmas, 3, seed=7, memory=0)
    assert torch.equal(found, in_turn(model, sigmas, 3, seed=7))
    assert (found[:, 0] == 0).all() and (found[:, 1:].abs() > 1e-4).all()
    whole = Flatness.of(sigmas, found)
    assert whole.mean == pytest.approx(found.mean(0).tolist(), abs=1e-15)
    expected = stats.t.interval(0.95, 2, found.mean(0)[1:], stats.sem(found.numpy()[:, 1:]))
    for side, ends in zip((-1, 1), expected, strict=True):
        assert [m + side * c for m, c in zip(whole.mean, whole.confidence, strict=True)][1:] == pytest.approx(ends, rel=1e-12)


class Tied(nn.Module):
    """One parameter in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 12)
        self.second = nn.Linear(12, 12)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.flatten(1)[:, :12]).relu())


class Recurrent(nn.Module):
    """A layer that keeps its parameters in a list, too."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 4, batch_first=True)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x[:, 0])[0][:, -1])


class Dynamic(nn.Sequential):
    """Looks at values, which vmap can't do."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits if logits.mean().item() < 1e9 else -logits


def dynamic() -> nn.Module:
    return Dynamic(*plain())


@pytest.mark.parametrize(("kind", "together"), [(plain, True), (Nested, True), (Tied, True), (Recurrent, False), (dynamic, False)])
def test_chunks_of_any_size_agree(kind, together):
    """All draws together, or none of them where vmap refuses the model."""
    torch.manual_seed(0)
    model, sigmas = trained(kind()), [0.1, 0.5]
    alone = changes(model, sigmas, 5, memory=0)
    assert torch.equal(alone, in_turn(model, sigmas, 5, seed=0))
    assert (alone.abs() > 1e-4).all()
    counts = {}
    for memory in (0, 2**16, 2**17, ENOUGH):
        passes = []

        def counted(passes: list[int] = passes) -> list[tuple[Tensor, Tensor]]:
            passes.append(1)
            return batches()

        found = torch.stack(list(loss_changes(model, counted, sigmas, 5, 0, memory)))
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=2e-6)
        counts[memory] = len(passes)
    assert counts[0] == 1 + 5 * 2
    assert counts[ENOUGH] == (1 + 2 if together else 1 + 1 + 5 * 2), "passes: L(w), one that is refused, σ_z times chunks"
    if kind is plain:
        assert counts[0] > counts[2**16] > counts[2**17] > counts[ENOUGH], "chunks between one and all"


def test_draws_depend_on_seed_and_number_alone():
    model = small()
    few, more, other = changes(model, [0.2], 2), changes(model, [0.1, 0.2], 4), changes(model, [0.2], 2, seed=1)
    torch.testing.assert_close(few[:, 0], more[:2, 1], rtol=1e-4, atol=2e-6)
    assert not torch.isclose(few, other, rtol=1e-2).any()
    assert torch.equal(more, changes(model, [0.1, 0.2], 4)), "the same again"


@pytest.mark.parametrize("memory", [0, ENOUGH])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_is(memory, fails):
    """Bit for bit: weights, running statistics, modes, gradients, hooks; also after an error and where some draws are not taken."""
    model, random = small(), torch.get_rng_state()
    (x, y), *_ = batches()
    F.cross_entropy(model(x), y).backward()
    own = {**model.state_dict(keep_vars=True)}
    before = {name: value.detach().clone() for name, value in own.items()}
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    modes, passes = [m.training for m in model.modules()], 0

    def failing() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal passes
        passes += 1
        yield x, y
        if fails and passes > 2:
            raise OSError("the disk is gone")
        yield x, y

    if fails:
        with pytest.raises(OSError, match="the disk is gone"):
            flatness(model, failing, [0.1, 0.5], 3, memory=memory)
    else:
        next(loss_changes(model, failing, [0.1, 0.5], 3, memory=memory))
        flatness(model, failing, [0.1, 0.5], 3, memory=memory)
    assert passes > 2
    after = model.state_dict(keep_vars=True)
    assert all(after[name] is own[name] and torch.equal(after[name], value) for name, value in before.items())
    assert all(p.requires_grad and torch.equal(p.grad, grads[name]) for name, p in model.named_parameters())
    assert [m.training for m in model.modules()] == modes and not all(modes) and any(modes)
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), random) and torch.is_grad_enabled()


@pytest.mark.parametrize("memory", [0, ENOUGH])
def test_autocast_sees_the_noise(memory):
    """It keeps the casts of parameters, which must not be those of the draw before."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    exact = changes(model, [1.0, 2.0], 3)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = changes(model, [1.0, 2.0], 3, memory=memory)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.02)
    assert not torch.equal(rounded, exact) and len(set(exact[:, 0].tolist())) == 3


def test_a_sum_over_many_examples_loses_no_digits():
    """The loss of 0.3 can't be added up a million times in single precision."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
    x, y = torch.ones(100_000, 1), torch.zeros(100_000, dtype=torch.long)
    once, often = (list(loss_changes(model, lambda n=n: [(x[:n], y[:n])], [0.1], 2)) for n in (1, len(x)))
    torch.testing.assert_close(torch.stack(often), torch.stack(once), rtol=1e-12, atol=0)


@pytest.mark.parametrize("sigmas", [[], [-0.1], [0.1, math.inf], [math.nan]])
def test_grids_that_are_none(sigmas):
    with pytest.raises(ValueError, match="not a grid"):
        flatness(small(), batches, sigmas, 3)


def test_no_images_and_no_draws_are_refused():
    with pytest.raises(ValueError, match="no images"):
        flatness(small(), list, [0.1], 3)
    for draws in (0, 1):
        with pytest.raises(ValueError, match=f"draws={draws} gives no standard error"):
            flatness(small(), batches, [0.1], draws)
