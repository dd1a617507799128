"""Error bars that hold, and simulated steady states within them of Eq. 37."""

from __future__ import annotations

import numpy as np
import pytest
from test_nqp_problem import general_problem

from late_phase.nqp.estimate import autocorrelation_time, burn_in, steady_state
from late_phase.nqp.problem import NoisyQuadratic, paper_problem
from late_phase.nqp.simulate import FullEnsemble, simulate
from late_phase.nqp.theory import full_ensemble_loss


def autoregressive(rho: float, *shape: int) -> np.ndarray:
    """Stationary, along the last axis, of variance 1; its autocorrelation time is (1 + ρ)/(1 − ρ)."""
    draws = np.random.default_rng(0).standard_normal(shape)
    for t in range(1, shape[-1]):
        draws[..., t] = rho * draws[..., t - 1] + np.sqrt(1 - rho**2) * draws[..., t]
    return draws


@pytest.mark.parametrize(("rho", "time"), [(0.0, 1.0), (0.9, 19.0)])
def test_the_autocorrelation_time_is_that_of_the_process(rho, time):
    assert autocorrelation_time(autoregressive(rho, 20, 20_000)) == pytest.approx(time, rel=0.05)


@pytest.mark.parametrize("runs", [1, 8])
def test_the_true_mean_is_within_the_error_bars_as_often_as_it_should(runs):
    estimates = [steady_state(series) for series in autoregressive(0.9, 300, runs, 2000)]
    inside = np.mean([abs(estimate.mean) < 2 * estimate.standard_error for estimate in estimates])
    assert 0.9 < inside < 0.99  # 0.95 for an exact error of a normal mean; that of a single run is itself uncertain
    spread = np.std([estimate.mean for estimate in estimates])
    assert np.median([estimate.standard_error for estimate in estimates]) == pytest.approx(spread, rel=0.25)


def test_runs_that_differ_for_longer_than_they_last_are_noticed():
    offsets = 0.1 * np.arange(8)  # too little beside a variance of 1 to be seen in the autocorrelation
    estimate = steady_state(autoregressive(0.0, 8, 1000) + offsets[:, None])
    assert estimate.standard_error == pytest.approx(offsets.std(ddof=1) / np.sqrt(8), rel=0.2) and estimate.runs == 8


def test_a_constant_has_no_error():
    estimate = steady_state(np.full((2, 10), 3.0))
    assert (estimate.mean, estimate.standard_error, estimate.autocorrelation_time) == (3.0, 0.0, 1.0)


def test_burn_in_is_that_of_the_slowest_modes_loss():
    steps = burn_in(0.01, 1e-3)
    assert 0.99 ** (2 * steps) <= 1e-3 < 0.99 ** (2 * (steps - 1))


PROBLEMS = {
    "paper": paper_problem(10, 2.0),
    "general": general_problem(6),
    "correlated noise": NoisyQuadratic(1 / np.arange(1, 6), 0.5 + 0.5 * np.eye(5), np.ones(5)),
}


@pytest.mark.parametrize("K", [1, 3, 10, 50])
@pytest.mark.parametrize("name", PROBLEMS)
def test_full_ensembles_match_equation_37(name, K):
    problem, eta, B, seeds, repetitions = PROBLEMS[name], 0.1, 2, [0, 1], 4
    start = np.broadcast_to(problem.to_modes(problem.target), (2, repetitions, problem.n)) + 0.3
    steps = burn_in(eta * problem.curvature.min(), 1e-6)
    ensemble = FullEnsemble(problem, start, eta, B, K)
    losses = simulate(ensemble, seeds, repetitions, (name, K), steps + 6000, every=5).losses
    estimate = steady_state(losses[..., steps // 5 :].reshape(8, -1))
    exact = full_ensemble_loss(problem, eta, B, K)
    assert estimate.standard_error < 0.03 * exact  # tight enough to notice a slip such as Eq. 37's missing ½
    assert abs(estimate.mean - exact) < 3 * estimate.standard_error
