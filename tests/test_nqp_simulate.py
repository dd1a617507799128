"""The simulator against autograd, a plain loop, the law of the noise, and the method's own ``LatePhase``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_nqp_problem import general_problem
from torch import nn

from late_phase import LatePhase, by_name
from late_phase.nqp import theory
from late_phase.nqp.problem import paper_problem
from late_phase.nqp.simulate import FullEnsemble, LatePhaseEnsemble, ParameterisedEnsemble, simulate
from late_phase.nqp.speed import compare, loop_step
from late_phase.support.errors import UserError

ETA, B = 0.05, 4


class Quadratic(nn.Module):
    """Loss of one minibatch (Eq. 6) as a torch module with the parameters θ ``[n, d]`` and e ``[d]``."""

    def __init__(self, problem, theta, e):
        super().__init__()
        self.theta, self.e = nn.Parameter(torch.tensor(theta)), nn.Parameter(torch.tensor(e))
        self.H, self.target = torch.tensor(problem.H), torch.tensor(problem.target)

    def forward(self, epsilon):
        error = self.theta @ self.e - self.target + torch.tensor(epsilon) / B**0.5
        return 0.5 * error @ self.H @ error


@pytest.mark.parametrize("d", [1, 3])
def test_the_gradients_are_those_of_autograd(d):
    problem, random = general_problem(6), np.random.default_rng(0)
    theta, e, epsilon = (random.standard_normal(shape) for shape in [(6, d), (4, d), (4, 6)])
    ensemble = LatePhaseEnsemble(problem, problem.to_modes(theta.T).T, e, ETA, B)
    ensemble.step_with(problem.to_modes(epsilon))

    models = [Quadratic(problem, theta, member) for member in e]
    for model, noise in zip(models, epsilon, strict=True):
        model(noise).backward()
    moved = theta - ETA * np.mean([model.theta.grad.numpy() for model in models], axis=0)
    np.testing.assert_allclose(problem.from_modes(ensemble.theta.T).T, moved, rtol=1e-12)
    np.testing.assert_allclose(ensemble.e, e - ETA * np.array([model.e.grad.numpy() for model in models]), rtol=1e-12)


@pytest.mark.parametrize(("K", "d"), [(1, 1), (4, 1), (5, 3), (2, 3)])
def test_late_phase_follows_the_simulator(K, d):
    problem, random = general_problem(6), np.random.default_rng(0)
    theta, e = random.standard_normal((6, d)), random.standard_normal(d)
    ensemble = LatePhaseEnsemble(problem, problem.to_modes(theta.T).T, np.tile(e, (K, 1)), ETA, B)
    model = Quadratic(problem, theta, e)
    late = LatePhase(model, torch.optim.SGD(model.parameters(), lr=ETA), by_name("e"), K, gamma_theta=1 / K)
    late.spawn()
    for _ in range(100):
        epsilon = random.standard_normal((K, 6))
        for noise in epsilon:
            model(noise).backward()
            late.step()
        ensemble.step_with(problem.to_modes(epsilon))
    np.testing.assert_allclose(problem.from_modes(ensemble.theta.T).T, model.theta.detach().numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(ensemble.e, late.members["e"].numpy(), rtol=0, atol=1e-12)
    assert K == 1 or np.ptp(ensemble.e, axis=0).min() > 0.01
    w = problem.from_modes(ensemble.mean_model())
    single = late.average()  # Eq. 1
    np.testing.assert_allclose(w, (single.theta @ single.e).detach().numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("d", [1, 3])
def test_the_vectorised_simulator_is_the_loop(d):
    problem, random, shape = general_problem(6), np.random.default_rng(0), (2, 3)
    theta, e = random.standard_normal((*shape, 6, d)), random.standard_normal((*shape, 4, d))
    ensemble = LatePhaseEnsemble(problem, theta, e, ETA, B)
    for _ in range(20):
        epsilon = random.standard_normal((*shape, 4, 6))
        ensemble.step_with(epsilon)
        for run in np.ndindex(shape):
            loop_step(problem, theta[run], e[run], ETA, B, epsilon[run])
    np.testing.assert_allclose(ensemble.theta, theta, rtol=1e-9)
    np.testing.assert_allclose(ensemble.e, e, rtol=1e-9)


@pytest.mark.parametrize("problem", [general_problem(4), paper_problem(4, 2.0)], ids=["general", "diagonal"])
@pytest.mark.parametrize(("K", "d"), [(1, 1), (5, 1), (5, 2), (2, 3), (3, 3), (8, 5)])
def test_the_drawn_noise_has_exactly_the_law_of_the_members_noise(problem, K, d):
    """The step is linear in the draws: its matrix, times its transpose, is the covariance η²/B D² of Eq. 29."""
    random = np.random.default_rng(0)
    theta, e = random.standard_normal((4, d)), random.standard_normal((K, d))

    def moved(draws):
        shape = (len(draws), 1, 1)
        ensemble = LatePhaseEnsemble(problem, np.tile(problem.to_modes(theta.T).T, shape), np.tile(e, shape), ETA, B)
        ensemble.step(draws)
        stacked = problem.from_modes(ensemble.theta.swapaxes(-1, -2)), ensemble.e
        return np.concatenate([part.reshape(len(draws), -1) for part in stacked], axis=1)

    (count,) = LatePhaseEnsemble(problem, theta, e, ETA, B).draws
    matrix = moved(np.eye(count)) - moved(np.zeros((1, count)))
    np.testing.assert_allclose(matrix.T @ matrix, ETA**2 / B * theory.diffusion(problem, theta, e.T), rtol=0, atol=1e-13)


def test_members_that_are_equal_or_dependent_have_noise_of_their_own():
    problem, random = paper_problem(4, 2.0), np.random.default_rng(0)
    theta = np.tile(random.standard_normal((1, 4, 1)), (1, 1, 3))  # rank 1, as is e
    ensemble = LatePhaseEnsemble(problem, theta, np.ones((1, 5, 3)), ETA, B)
    for _ in range(3):
        ensemble.step(random.standard_normal((1, *ensemble.draws)))
    assert np.isfinite(ensemble.theta).all() and np.ptp(ensemble.e, axis=1).min() > 1e-3


def test_the_parameterised_ensemble_is_k_models():
    problem, random = general_problem(5), np.random.default_rng(0)
    theta, e = random.standard_normal((2, 5, 2)), random.standard_normal((2, 2))
    ensemble = ParameterisedEnsemble(problem, theta, e, ETA, B, K=3)
    models = [LatePhaseEnsemble(problem, theta, e[:, None], ETA, B) for _ in range(3)]
    for _ in range(5):
        draws = random.standard_normal((2, *ensemble.draws))
        ensemble.step(draws)
        for k, model in enumerate(models):
            model.step(draws[:, k])
    np.testing.assert_allclose(ensemble.mean_model(), np.mean([model.mean_model() for model in models], axis=0), rtol=1e-12)
    np.testing.assert_allclose(ensemble.squared_embedding(), np.mean([m.squared_embedding() for m in models], 0), rtol=1e-12)


def test_the_full_ensemble_is_equation_33():
    problem, random = general_problem(5), np.random.default_rng(0)
    w, epsilon = random.standard_normal(5), random.standard_normal((4, 3, 5))
    ensemble = FullEnsemble(problem, problem.to_modes(w), ETA, B, K=3)
    root = problem.from_modes(problem.noise(np.eye(5))).T  # H ε = root draws
    error = w - problem.target
    for draws in epsilon:
        ensemble.step(draws)
        error = (np.eye(5) - ETA * problem.H) @ error - ETA / (3 * B**0.5) * (root @ draws.sum(0))
    np.testing.assert_allclose(problem.from_modes(ensemble.mean_model()), problem.target + error, rtol=1e-12)


def test_a_seed_has_the_same_runs_in_any_company():
    problem = paper_problem(5, 1.0)

    def losses(seeds, purpose=("test",)):
        start = np.zeros((len(seeds), 2, 5))
        return simulate(FullEnsemble(problem, start, 0.1, B, 3), seeds, 2, purpose, steps=3000, every=7).losses

    both = losses([5, 6])
    assert both.shape == (2, 2, 3000 // 7)
    np.testing.assert_array_equal(both[1:], losses([6]))
    assert not np.array_equal(both[1], losses([6], ("another",))[0])
    assert (both[0, 0] != both[0, 1]).all() and (both[0] != both[1]).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("every", [1, 900])
def test_divergence_is_an_error_in_one_sentence(d, every):
    """Also where it is noticed by the eigenvalues of matrices that aren't finite, and where no record is taken in time."""
    problem = paper_problem(3, 1.0)
    theta = np.random.default_rng(0).standard_normal((1, 1, 3, d)) * 100
    for ensemble in (
        ParameterisedEnsemble(problem, theta, np.ones((1, 1, d)), 0.5, B, 2),
        LatePhaseEnsemble(problem, theta, np.ones((1, 1, 6, d)), 0.5, B),
    ):
        with pytest.raises(UserError, match=r"eta=0.5 makes the runs diverge after \d+ steps: choose a smaller one"):
            simulate(ensemble, [0], 1, ("test",), 1000, every)


def test_growth_that_is_finite_at_the_end_is_divergence_too():
    """By a third of the distance at each step: 10⁵² in 300 of them."""
    ensemble = FullEnsemble(paper_problem(1, 1.0), np.zeros((1, 1, 1)), 2.5, B, 2)
    with pytest.raises(UserError, match=r"eta=2.5 makes the runs diverge after \d\d? steps"):
        simulate(ensemble, [0], 1, ("test",), 300)


@pytest.mark.slow
def test_it_is_twenty_times_as_fast_as_a_loop():
    assert compare(pairs=7)["ratio"] >= 20
