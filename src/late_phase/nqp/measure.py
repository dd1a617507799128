"""One point of Figure 1: the steady-state loss of an ensemble on the paper's problem, simulated and in closed form."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from late_phase.nqp.cost import check_bytes, check_seconds, check_settings
from late_phase.nqp.estimate import Estimate, burn_in, steady_state
from late_phase.nqp.problem import Array, NoisyQuadratic, paper_problem
from late_phase.nqp.settings import Settings
from late_phase.nqp.simulate import Ensemble, FullEnsemble, LatePhaseEnsemble, ParameterisedEnsemble, simulate
from late_phase.nqp.theory import drift, full_ensemble_loss, lasting_squared_phi, late_phase_loss, parameterised_loss, rates
from late_phase.support.errors import UserError
from late_phase.support.seeding import generator


@dataclass(frozen=True)
class Measurement:
    """A measurement of the loss after convergence.

    Attributes:
        theory: the loss in closed form: Eq. 37 for full ensembles, else :func:`late_phase_loss` or
            :func:`parameterised_loss`.
        burn_in: steps before the average.
        window: steps of the average.
        every: steps between records.
        squared_phi: mean of ‖ē‖² over the window; None for full ensembles.
        seconds: time that the measurement took.
    """

    settings: Settings
    loss: Estimate
    theory: float
    burn_in: int
    window: int
    every: int
    squared_phi: float | None
    seconds: float

    def line(self) -> str:
        s = self.settings
        name = "Eq. 37" if s.model == "full" else "linear regime"
        return (
            f"{s.model} K={s.K} eta={s.eta:g} B={s.B} n={s.n} d={s.d}: loss {self.loss.mean:.4g} ± {self.loss.standard_error:.1g}, "
            f"{name} {self.theory:.4g} (ratio {self.loss.mean / self.theory:.3f}; {self.loss.runs} runs of {self.burn_in} + "
            f"{self.window} steps, {self.seconds:.0f} s)"
        )

    def record(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """A planned measurement.

    Attributes:
        burn_in, window, every: as in :class:`Measurement`.
        seconds: estimate of the time that it takes.
    """

    settings: Settings
    burn_in: int
    window: int
    every: int
    seconds: float


def plan(s: Settings) -> Plan:
    """Plans a measurement. Burn-in ends when the slowest mode's loss is the share ``tolerance`` of the loss to be measured.

    Raises:
        UserError: a value is impossible, the memory is too small, the time is too long, η is too large to converge, or the noise
            is so small that rounding hides it.
    """
    check_settings(s)
    problem = paper_problem(s.n, s.target_norm)
    w, theta, e = start(problem, s)
    shared = s.K if s.model == "late_phase" else 1  # members that share one θ
    speeds = problem.curvature
    if s.model != "full":
        speeds = np.array([rates(problem, settled(problem, part[0], e), e) for part in theta])
    refuse_unstable(s, speeds)

    def slowest_of(pace: float) -> float:
        """Returns the share by which the slowest mode's error shrinks at each step. Rounding may make its rate negative."""
        # Large steps overshoot: then the mode with the largest rate may settle slowest.
        return max(1e-100, min(0.5, float(2 - s.eta * speeds.max()), float(s.eta * speeds.min()) * pace))

    check_seconds(s, round(s.window / slowest_of(1.0)))
    pace = 1.0
    if s.model != "full" and s.d == 1:
        # φ may fall below its start, and everything slows down with φ². On the way to w* alone φ changes by less than a factor of
        # two, unless w* is small.
        reached = min(float(mean @ mean) for part in theta[:, 0] for _, mean in states(problem, s, part, e, np.zeros(1)))
        pace = min(1.0, lasting_squared_phi(problem, shared) / s.phi0**2, 2 * reached / s.phi0**2)
    slowest = slowest_of(pace)
    every = max(1, round(1 / (s.eta * speeds.max())))  # the fastest mode's time, so records miss nothing
    window = round(s.window / slowest)
    check_seconds(s, window)
    noise = slowest / float(np.sqrt(problem.curvature.min() * shared * s.B))  # of the slowest mode in a step
    if noise < 100 * np.finfo(float).eps * problem.target.max():
        raise UserError(
            f"B={s.B} with eta={s.eta:g} makes noise of {noise:.2g} in a step, which the rounding of weights of "
            f"{problem.target.max():.2g} hides: choose a smaller B or target_norm, or a larger eta."
        )
    predict = prediction(problem, s, theta, e)
    left = s.tolerance * min(1.0, predict(np.zeros(1)) / float(problem.loss(w).mean()))
    before = burn_in(slowest, left)
    for part in theta[:, 0] if s.model != "full" else ():
        states(problem, s, part, e, np.array([before, before + window]))  # as φ drifts, η may become too large
    records = (before + window) // every - before // every
    if records * len(s.seeds) * s.repetitions < 2:
        raise UserError(f"window={s.window:g} gives one record, which has no error bar: choose a larger one, or more repetitions.")
    seconds = check_seconds(s, before + window)
    check_bytes(s, (before + window) // every)
    return Plan(s, before, window, every, seconds)


def measure(p: Plan) -> Measurement:
    """Simulates a plan and averages over its window.

    Raises:
        UserError: the runs diverge.
    """
    began, s = time.monotonic(), p.settings
    problem = paper_problem(s.n, s.target_norm)
    w, theta, e = start(problem, s)
    if s.model == "full":
        run: Ensemble = FullEnsemble(problem, problem.to_modes(w), s.eta, s.B, s.K)
    elif s.model == "late_phase":
        run = LatePhaseEnsemble(problem, theta, np.broadcast_to(e, (*theta.shape[:2], s.K, s.d)), s.eta, s.B)
    else:
        run = ParameterisedEnsemble(problem, theta, np.broadcast_to(e, (*theta.shape[:2], s.d)), s.eta, s.B, s.K)
    trajectory = simulate(run, s.seeds, s.repetitions, (s.model, s.K), p.burn_in + p.window, p.every)
    records = slice(p.burn_in // p.every, None)
    squared = trajectory.squared_embeddings
    return Measurement(
        settings=s,
        loss=steady_state(trajectory.losses[..., records].reshape(len(s.seeds) * s.repetitions, -1)),
        theory=prediction(problem, s, theta, e)(np.linspace(p.burn_in, p.burn_in + p.window, 5)),
        burn_in=p.burn_in,
        window=p.window,
        every=p.every,
        squared_phi=None if squared is None else float(squared[..., records].mean()),
        seconds=time.monotonic() - began,
    )


def start(problem: NoisyQuadratic, s: Settings) -> tuple[Array, Array, Array]:
    """Returns the start: w̄ ``[seeds, repetitions, n]``, θ ``[seeds, repetitions, n, d]`` and e ``[d]`` with w̄ = θe, ‖e‖ = φ_0.

    w̄ has distance 1 from w* in a random direction. With T0 = 0 all members start there (σ0 = 0). A rotation of the embedding
    space changes nothing, so e has equal elements. The part of θ that w̄ doesn't determine is Gaussian, with the same root mean
    square as the part that w̄ determines.
    """
    e = np.full(s.d, s.phi0 / np.sqrt(s.d))
    weights, thetas = [], []
    for seed in s.seeds:
        random = np.random.default_rng(generator(seed, "nqp", "start").initial_seed())
        direction = random.standard_normal(s.n)
        w = problem.target + direction / np.linalg.norm(direction)
        free = random.standard_normal((s.n, s.d)) * np.linalg.norm(w) / (s.phi0 * np.sqrt(s.n))
        weights.append(w)
        thetas.append(free + np.outer(w - free @ e, e) / (e @ e))
    shape = (len(s.seeds), s.repetitions)
    w = np.broadcast_to(np.array(weights)[:, None], (*shape, s.n))
    return w, np.broadcast_to(np.array(thetas)[:, None], (*shape, s.n, s.d)), e


def settled(problem: NoisyQuadratic, theta: Array, e: Array) -> Array:
    """Returns the θ nearest to ``theta`` ``[n, d]`` with θe = w*."""
    return theta + np.outer(problem.target - theta @ e, e) / (e @ e)


def states(problem: NoisyQuadratic, s: Settings, theta: Array, e: Array, times: Array) -> list[tuple[Array, Array]]:
    """Returns the states that the runs fluctuate about: θ ``[n, d]`` and ē ``[d]`` with θē = w*.

    For d = 1, where φ drifts, there is one state for each of ``times`` (in steps, ascending).

    Raises:
        UserError: η is too large for the runs to stay there.
    """
    if s.d > 1:
        found = [(settled(problem, theta, e), e)]
    else:
        imbalance, shared = float(theta[:, 0] @ theta[:, 0]) - s.phi0**2, s.K if s.model == "late_phase" else 1
        phis = np.sqrt(drift(problem, imbalance, s.eta, s.B, shared, np.append(times, times[-1] + 1))[:-1])
        found = [(problem.target[:, None] / phi, np.array([phi])) for phi in phis]
    for state in found:
        refuse_unstable(s, rates(problem, *state))
    return found


def refuse_unstable(s: Settings, speeds: Array) -> None:
    limit = 2 / speeds.max()
    if s.eta >= limit:
        cure = (
            f"choose one below {limit:.3g}" if limit > 1e-30 else f"choose phi0 nearer to {(s.target_norm / s.n**0.5) ** 0.5:.3g}"
        )
        raise UserError(f"eta={s.eta:g} is unstable, as the largest curvature is {speeds.max():.3g}: {cure}.")


def prediction(problem: NoisyQuadratic, s: Settings, theta: Array, e: Array) -> Callable[[Array], float]:
    """Returns the closed form as a function of steps ``[times]``. It averages over these times and over seeds."""
    if s.model == "full":
        loss = full_ensemble_loss(problem, s.eta, s.B, s.K)
        return lambda times: loss
    closed_form = late_phase_loss if s.model == "late_phase" else parameterised_loss

    def predict(times: Array) -> float:
        reached = [state for part in theta[:, 0] for state in states(problem, s, part, e, times)]
        return float(np.mean([closed_form(problem, *state, s.eta, s.B, s.K) for state in reached]))

    return predict
