"""Appendix C line by line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_nqp_problem import general_problem

from late_phase.nqp import theory
from late_phase.nqp.problem import NoisyQuadratic, paper_problem
from late_phase.nqp.simulate import LatePhaseEnsemble, ParameterisedEnsemble, simulate

ETA, B = 0.05, 4
SIZES = [(1, 1, 1), (5, 1, 4), (4, 3, 2), (3, 2, 5), (4, 4, 1), (2, 3, 3)]  # n, d, K


def instance(n: int, d: int, K: int) -> tuple[NoisyQuadratic, np.ndarray, np.ndarray]:
    random = np.random.default_rng(n + 10 * d + 100 * K)
    return general_problem(n, seed=n), random.standard_normal((n, d)), random.standard_normal((d, K))


def mean_model_loss(problem, d, K):
    """L(x) in torch, with x = [vec(θ), e_1, …, e_K] as in Eqs. 11 and 12."""
    H, target, n = torch.tensor(problem.H), torch.tensor(problem.target), problem.n

    def loss(x):
        theta, e = x[: n * d].view(d, n).T, x[n * d :].view(K, d).mean(0)
        error = theta @ e - target
        return 0.5 * error @ H @ error

    return loss


def stacked(theta, E):
    return torch.tensor(np.concatenate([theta.T.ravel(), E.T.ravel()]))


@pytest.mark.parametrize(("n", "d", "K"), SIZES)
def test_gradient_and_hessian_are_those_of_autograd(n, d, K):
    problem, theta, E = instance(n, d, K)
    x, loss = stacked(theta, E), mean_model_loss(problem, d, K)
    hessian = torch.autograd.functional.hessian(loss, x).numpy()
    np.testing.assert_allclose(theory.hessian(problem, theta, E), hessian, rtol=0, atol=1e-12 * abs(hessian).max())
    gradient = torch.func.grad(loss)(x).numpy()
    np.testing.assert_allclose(theory.gradient(problem, theta, E), gradient, rtol=0, atol=1e-12 * abs(gradient).max())


@pytest.mark.parametrize(("n", "d", "K"), SIZES)
def test_force_and_diffusion_are_those_of_algorithm_1(n, d, K):
    problem, theta, E = instance(n, d, K)
    ensemble = LatePhaseEnsemble(problem, problem.to_modes(theta.T).T, E.T, ETA, B)
    ensemble.step_with(np.zeros((K, n)))
    moved = stacked(problem.from_modes(ensemble.theta.T).T, ensemble.e.T).numpy() - stacked(theta, E).numpy()
    np.testing.assert_allclose(moved, -ETA * theory.force(problem, theta, E), rtol=0, atol=1e-12)
    G = np.vstack([np.kron(E, problem.H) / K, np.kron(np.eye(K), theta.T @ problem.H)])  # Eq. 17
    covariance = G @ np.kron(np.eye(K), problem.Sigma) @ G.T
    np.testing.assert_allclose(theory.diffusion(problem, theta, E), covariance, rtol=0, atol=1e-12 * abs(covariance).max())


@pytest.mark.parametrize(("n", "d", "K"), SIZES)
def test_equations_25_to_27_as_corrected(n, d, K):
    problem, theta, E = instance(n, d, K)
    H, e, gradient = problem.H, E.mean(1), theory.gradient(problem, theta, E)
    scale = np.concatenate([np.ones(n * d), np.full(K * d, float(K))])
    apart = E - e[:, None]
    gamma, error = apart @ apart.T / K, theta @ e - problem.target
    correction = np.concatenate([(H @ theta @ gamma).T.ravel(), (theta.T @ H @ theta @ apart).T.ravel()])
    force = theory.force(problem, theta, E)
    np.testing.assert_allclose(force, scale * gradient + correction, rtol=0, atol=1e-11)
    weighted = error @ (e @ e * H @ H + H @ theta @ theta.T @ H) @ error
    assert gradient * scale @ gradient == pytest.approx(weighted, rel=1e-11)
    mixed = np.trace(H @ theta @ gamma @ np.outer(e, error) @ H)
    assert gradient @ force == pytest.approx(weighted + mixed, rel=1e-10)


@pytest.mark.parametrize(("n", "d", "K"), SIZES)
def test_equation_31_as_corrected_is_the_trace_of_the_matrices(n, d, K):
    problem, theta, E = instance(n, d, K)
    by_matrices = theory.trace_by_matrices(problem, theta, E, ETA, B)
    assert theory.trace_expression(problem, theta, E, ETA, B) == pytest.approx(by_matrices, rel=1e-10, abs=1e-12)
    full = theory.full_ensemble_trace_by_matrices(problem, ETA, B, K)
    assert theory.full_ensemble_trace(problem, ETA, B, K) == pytest.approx(full, rel=1e-10)


def test_the_steady_covariance_is_where_moments_propagate_to():
    problem, K = general_problem(4), 3
    steady = theory.steady_covariance(problem, ETA, B, K)
    contraction = np.eye(4) - ETA * problem.H
    inverse = np.linalg.inv(np.eye(16) - np.kron(contraction, contraction))  # Eq. 37 as it stands
    np.testing.assert_allclose(steady.ravel(), ETA**2 / (K * B) * inverse @ problem.noise_covariance.ravel(), rtol=1e-9)
    mean, covariance = theory.propagate(problem, np.ones(4), np.zeros((4, 4)), ETA, B, K, steps=2)
    np.testing.assert_allclose(mean, contraction @ contraction @ np.ones(4), rtol=1e-12)
    assert not np.allclose(covariance, steady)
    mean, covariance = theory.propagate(problem, np.ones(4), np.zeros((4, 4)), ETA, B, K, steps=5000)
    np.testing.assert_allclose(covariance, steady, rtol=1e-9)
    assert abs(mean).max() < 1e-9


def test_the_loss_of_the_papers_problem():
    h = 1 / np.arange(1, 101)
    loss = theory.full_ensemble_loss(paper_problem(100, 10.0), 0.3, 2, 5)
    assert loss == pytest.approx(0.3 / (2 * 5 * 2) * np.sum(h / (2 - 0.3 * h)), rel=1e-10)


def test_the_linear_regime_for_small_steps():
    problem, phi, eta, K = paper_problem(20, 3.0), 0.7, 1e-5, 4
    theta, e = problem.target[:, None] / phi, np.array([phi])
    expected = eta / (4 * K * B) * (phi**2 * np.trace(problem.H) + np.trace(theta.T @ problem.H @ theta))
    assert theory.late_phase_loss(problem, theta, e, eta, B, K) == pytest.approx(expected, rel=1e-3)
    eigenvalues = np.linalg.eigvals(theory.preconditioner(theta, e) @ problem.H)
    np.testing.assert_allclose(theory.rates(problem, theta, e), np.sort(eigenvalues.real), rtol=1e-9)


def test_the_spread_of_the_embeddings():
    """The steady covariance of Eq. 8 at fixed θ, in continuous time; none for a single member."""
    problem, theta, _ = instance(4, 3, 5)
    assert (theory.spread(problem, theta, ETA, B, 1) == 0).all()
    eta, spread = 1e-5, theory.spread(problem, theta, 1e-5, B, 5)
    stiffness, noise = theta.T @ problem.H @ theta, theta.T @ problem.noise_covariance @ theta
    expected = eta * 0.8 / B * noise
    np.testing.assert_allclose(stiffness @ spread + spread @ stiffness, expected, rtol=0, atol=1e-3 * abs(expected).max())


@pytest.mark.parametrize(("n", "d"), [(4, 3), (1, 2), (3, 7)])
def test_the_spread_is_where_its_recursion_ends_also_where_some_embeddings_never_move(n, d):
    problem, theta, _ = instance(n, d, 5)
    steady = theory.spread(problem, theta, ETA, B, 5)
    contraction = np.eye(d) - ETA * theta.T @ problem.H @ theta
    noise = 0.8 * ETA**2 / B * theta.T @ problem.noise_covariance @ theta
    np.testing.assert_allclose(contraction @ steady @ contraction + noise, steady, rtol=0, atol=1e-13 * abs(steady).max())
    covariance = np.zeros((d, d))
    for _ in range(20_000):
        covariance = contraction @ covariance @ contraction + noise
    np.testing.assert_allclose(steady, covariance, rtol=0, atol=1e-9 * abs(covariance).max())


def test_a_small_phi_drifts_from_where_it_is():
    """‖w*‖²/φ² − φ² = 10¹², a difference of numbers that are equal to twelve digits."""
    problem = paper_problem(4, 1e-3)
    (start, _) = theory.drift(problem, 1e6, 1e-9, 20, 2, np.array([0.0, 1.0]))
    assert start == pytest.approx(1e-6 / 1e6, rel=1e-12)


def test_tiny_weights_drift_as_large_ones_do():
    """For K = 1 the drift of φ̄² scales with w*."""
    times, scale = np.linspace(0, 16_000, 5), 1e-8
    large, tiny = (theory.drift(paper_problem(10, 2.0 * by), 3.0 * by, 0.05, 1, 1, times) for by in (1.0, scale))
    assert abs(large[-1] / large[0] - 1) > 0.3
    np.testing.assert_allclose(tiny, scale * large, rtol=1e-4)


@pytest.mark.parametrize("K", [1, 16])
def test_phi_drifts_to_where_k_takes_it_and_the_loss_with_it(K):
    """Simulated: φ̄⁴ -> K w*ᵀSw*/Tr[S], so that the loss for t -> ∞ is not ∝ 1/K."""
    problem, eta, runs, steps = paper_problem(10, 2.0), 0.05, 30, 16_000
    theta, e = problem.target[:, None], np.ones((1, runs, K, 1))
    ensemble = LatePhaseEnsemble(problem, np.broadcast_to(theta, (1, runs, 10, 1)), e, eta, 1)
    trajectory = simulate(ensemble, [0], runs, ("drift",), steps, every=20)
    times = np.arange(20, steps + 1, 20)
    expected = theory.drift(problem, 4.0 - 1.0, eta, 1, K, times)
    simulated = trajectory.squared_embeddings[0].mean(0)
    np.testing.assert_allclose(simulated[200:].reshape(-1, 100).mean(1), expected[200:].reshape(-1, 100).mean(1), rtol=0.1)
    last = theory.lasting_squared_phi(problem, K)
    assert last == pytest.approx(2.0 / np.sqrt(10) * np.sqrt(K))
    assert expected[-1] == pytest.approx(last, rel=0.1) and abs(last - 1) > 0.3
    phi = np.sqrt(expected[-1])
    predicted = theory.late_phase_loss(problem, problem.target[:, None] / phi, np.array([phi]), eta, 1, K)
    assert trajectory.losses[..., 500:].mean() == pytest.approx(predicted, rel=0.1)


def test_independent_models_share_a_bias_that_many_of_them_show():
    """For Σ = H⁻¹ and φ in balance each is short of w* by the part η/(2Bφ²), and the loss of many is that of the bias."""
    problem, eta, K = paper_problem(10, np.sqrt(10)), 0.02, 600
    theta, e = problem.target[:, None], np.ones(1)
    bias = eta / 2 * problem.target
    assert theory.parameterised_loss(problem, theta, e, eta, 1, 10**9) == pytest.approx(
        problem.loss(problem.target - bias), rel=0.3
    )
    one = theory.parameterised_loss(problem, theta, e, eta, 1, 1)
    assert one == pytest.approx(theory.late_phase_loss(problem, theta, e, eta, 1, 1), rel=0.05)
    ensemble = ParameterisedEnsemble(problem, theta[None, None], e[None, None], eta, 1, K)
    losses = simulate(ensemble, [0], 1, ("bias",), 4000, every=10).losses[..., 150:]  # φ drifts in 8,500
    predicted = theory.parameterised_loss(problem, theta, e, eta, 1, K)
    assert predicted > 1.5 * one / K and losses.mean() == pytest.approx(predicted, rel=0.15)


def test_the_spread_of_the_members_biases_late_phase_learning_too():
    """Before φ has drifted far: the loss of very many members is mostly that of the bias, which they don't lower."""
    problem, eta, K, runs = paper_problem(10, np.sqrt(10)), 0.02, 600, 8
    theta = problem.target[:, None]
    shape = np.broadcast_to(theta, (1, runs, 10, 1)), np.ones((1, runs, K, 1))
    trajectory = simulate(LatePhaseEnsemble(problem, *shape, eta, 1), [0], runs, ("bias",), 4000, every=10)
    phi = np.sqrt(trajectory.squared_embeddings[..., 150:].mean())
    predicted = theory.late_phase_loss(problem, theta / phi, np.array([phi]), eta, 1, K)
    assert predicted > 1.5 * theory.late_phase_loss(problem, theta / phi, np.array([phi]), eta, 1, 1) / K
    assert trajectory.losses[..., 150:].mean() == pytest.approx(predicted, rel=0.15)
