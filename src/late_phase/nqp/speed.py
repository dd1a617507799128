"""How much faster the vectorised simulator is than a plain loop over members and repetitions."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from late_phase.nqp.problem import Array, NoisyQuadratic, paper_problem
from late_phase.nqp.simulate import LatePhaseEnsemble, simulate
from late_phase.support.timing import interval, paired


def loop_step(problem: NoisyQuadratic, theta: Array, e: Array, eta: float, B: int, epsilon: Array) -> None:
    """Makes one iteration of one run as Algorithm 1 is written.

    θ ``[n, d]`` and e ``[K, d]`` change in place. The noise ε is ``[K, n]``.
    """
    target, total, K = problem.to_modes(problem.target), np.zeros_like(theta), len(e)
    for k in range(K):
        gradient = problem.curvature * (theta @ e[k] - target + epsilon[k] / np.sqrt(B))
        total += np.outer(gradient, e[k])
        e[k] -= eta * (theta.T @ gradient)
    theta -= eta * total / K


def compare(pairs: int = 11) -> dict[str, Any]:
    """Measures the ratio loop / vectorised of the times per iteration of all repetitions.

    The times are measured in pairs. The result has the median ratio and its 95 % interval.
    """
    eta, B, K, repetitions, problem = 0.02, 20, 10, 100, paper_problem(100, 10.0)
    theta, e = np.tile(problem.target[:, None], (1, repetitions, 1, 1)), np.ones((1, repetitions, K, 1))
    deviations = np.sqrt(np.diag(problem.Sigma))

    def vectorised() -> float:
        ensemble, steps = LatePhaseEnsemble(problem, theta, e, eta, B), 300
        start = time.perf_counter()
        simulate(ensemble, [0], repetitions, ("speed",), steps)
        return (time.perf_counter() - start) / steps

    def loop() -> float:
        random, thetas, es, steps = np.random.default_rng(0), theta[0].copy(), e[0].copy(), 3
        start = time.perf_counter()
        for _ in range(steps):
            for r in range(repetitions):
                loop_step(problem, thetas[r], es[r], eta, B, deviations * random.standard_normal((K, problem.n)))
                problem.loss(thetas[r] @ es[r].mean(0))
        return (time.perf_counter() - start) / steps

    vectorised(), loop()
    times = paired(vectorised, loop, pairs)
    ratios = [theirs / ours for ours, theirs in times]
    record = {"K": K, "repetitions": repetitions, "ratio": statistics.median(ratios), "interval": interval(ratios)}
    return record | {"seconds_vectorised_and_loop": times}
