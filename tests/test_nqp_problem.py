"""The noisy quadratic problem: loss, noise, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from late_phase.nqp.problem import NoisyQuadratic, paper_problem
from late_phase.support.errors import UserError


def general_problem(n: int, seed: int = 0) -> NoisyQuadratic:
    """H and Σ neither diagonal nor with common eigenvectors, w* random."""
    random = np.random.default_rng(seed)
    H, Sigma = (a @ a.T / n + 0.1 * np.eye(n) for a in random.standard_normal((2, n, n)))
    return NoisyQuadratic(H, Sigma, random.standard_normal(n))


def test_loss_and_noise_are_those_of_the_matrices():
    problem, w = general_problem(5), np.random.default_rng(1).standard_normal((2, 3, 5))
    error = w - problem.target
    np.testing.assert_allclose(problem.loss(w), 0.5 * np.einsum("...i,ij,...j", error, problem.H, error), rtol=1e-12)
    np.testing.assert_allclose(problem.from_modes(problem.to_modes(w)), w, rtol=1e-12)
    rows = problem.from_modes(problem.noise(np.eye(5)))
    np.testing.assert_allclose(rows.T @ rows, problem.H @ problem.Sigma @ problem.H, rtol=1e-12)
    along = problem.noise_along(problem.to_modes(w[0]).T)
    np.testing.assert_allclose(along.T @ along, w[0] @ problem.noise_covariance @ w[0].T, rtol=1e-12)


def test_a_diagonal_problem_is_the_same_in_matrices():
    vectors, w = paper_problem(4, 2.0), np.random.default_rng(0).standard_normal((3, 4))
    matrices = NoisyQuadratic(vectors.H, vectors.Sigma, vectors.target)
    np.testing.assert_allclose(vectors.loss(w), matrices.loss(w), rtol=1e-12)
    rows = matrices.from_modes(matrices.noise(np.eye(4)))
    np.testing.assert_allclose(rows.T @ rows, np.diag(vectors.noise(np.ones(4)) ** 2), atol=1e-12)


def test_the_papers_problem():
    problem = paper_problem(100, 10.0)
    assert problem.H[2, 2] == pytest.approx(1 / 3) and np.linalg.norm(problem.target) == pytest.approx(10)
    np.testing.assert_allclose(problem.H @ problem.Sigma, np.eye(100), atol=1e-12)


@pytest.mark.parametrize(
    ("H", "Sigma", "target", "sentence"),
    [
        ([1, 0], [1, 1], [0, 0], "H has the eigenvalue 0: pass a positive definite H."),
        ([[1, 2], [2, 1]], [1, 1], [0, 0], "H has the eigenvalue -1"),
        ([[1, 1], [0, 1]], [1, 1], [0, 0], "H is not symmetric"),
        ([1, 1], [1, -1], [0, 0], "Sigma has the eigenvalue -1"),
        ([1, 1, 1], [1, 1], [0, 0], r"H has the shape \(3,\)"),
        ([1, 1], [1, np.nan], [0, 0], "Sigma has the shape"),
        ([1, 1], [1, 1], [], "target has the shape"),
    ],
)
def test_what_is_no_problem_is_refused(H, Sigma, target, sentence):
    with pytest.raises(UserError, match=sentence):
        NoisyQuadratic(H, Sigma, target)


def test_noise_may_lack_a_direction():
    problem = NoisyQuadratic(np.eye(2), [[1, 1], [1, 1]], [0, 0])  # Σ of rank 1
    rows = problem.from_modes(problem.noise(np.eye(2)))
    np.testing.assert_allclose(rows.T @ rows, [[1, 1], [1, 1]], atol=1e-7)
