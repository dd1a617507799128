"""One point of Figure 1: the steady-state loss of an ensemble on the paper's problem, simulated and in closed form."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from late_phase.errors import UserError
from late_phase.nqp.estimate import Estimate, burn_in, steady_state
from late_phase.nqp.problem import Array, NoisyQuadratic, paper_problem
from late_phase.nqp.simulate import Ensemble, FullEnsemble, LatePhaseEnsemble, ParameterisedEnsemble, simulate
from late_phase.nqp.theory import drift, full_ensemble_loss, lasting_squared_phi, late_phase_loss, parameterised_loss, rates
from late_phase.seeding import generator

MODELS = ("late_phase", "parameterised", "full")


@dataclass
class Settings:
    """What is measured. Meanings and the stated regime's values: ``configs/nqp.yaml``."""

    model: str = "late_phase"
    K: int = 10
    eta: float = 0.02
    B: int = 20
    n: int = 100
    d: int = 1
    target_norm: float = 10.0
    phi0: float = 1.0
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3])
    repetitions: int = 2
    tolerance: float = 0.01
    window: float = 6.0


@dataclass(frozen=True)
class Measurement:
    """The loss after convergence and what belongs to it.

    Attributes:
        theory: the loss in closed form; Eq. 37 for full ensembles, else :func:`late_phase_loss` or
            :func:`parameterised_loss`.
        burn_in, window: steps before and within the average; a record is taken every ``every`` steps.
        squared_phi: mean of ‖ē‖² over the window; None for full ensembles.
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


def check(s: Settings) -> Settings:
    """Refuses what can't be, before any work.

    Raises:
        UserError: a value is impossible.
    """
    if s.model not in MODELS:
        raise UserError(f"model={s.model} is unknown: choose one of {', '.join(MODELS)}.")
    for key in ("K", "B", "n", "d", "repetitions"):
        if getattr(s, key) < 1:
            raise UserError(f"{key}={getattr(s, key)} is too small: choose an integer of at least 1.")
    for key in ("eta", "target_norm", "phi0"):
        if not 0 < getattr(s, key) < float("inf"):
            raise UserError(f"{key}={getattr(s, key)} is not a positive number: choose one above 0.")
    if not 1 <= s.window < float("inf"):
        raise UserError(f"window={s.window} is too short: choose at least 1 time of the slowest mode.")
    if not 0 < s.tolerance < 1:
        raise UserError(f"tolerance={s.tolerance} is no part of a loss: choose a number between 0 and 1, such as 0.01.")
    if not s.seeds or len(set(s.seeds)) < len(s.seeds):
        raise UserError(f"seeds={s.seeds} has none, or one of them twice: choose different ones, such as [0,1,2].")
    return s


def measure(s: Settings) -> Measurement:
    """Simulates until the slowest mode's loss is ``tolerance`` of what is left to measure, then averages over the window.

    Raises:
        UserError: a value is impossible, or η is too large to converge.
    """
    began, s = time.monotonic(), check(s)
    problem = paper_problem(s.n, s.target_norm)
    w, theta, e = start(problem, s)

    if s.model == "full":
        speeds = slow = problem.curvature
        run: Ensemble = FullEnsemble(problem, problem.to_modes(w), s.eta, s.B, s.K)
    else:
        shared = 1 if s.model == "parameterised" else s.K  # members of one θ
        speeds = np.array([rates(problem, settled(problem, part[0], e), e) for part in theta])
        # φ may move below where it starts, and everything slows down with φ².
        slow = speeds * min(1.0, lasting_squared_phi(problem, shared) / s.phi0**2) if s.d == 1 else speeds
        if s.model == "late_phase":
            run = LatePhaseEnsemble(problem, theta, np.broadcast_to(e, (*theta.shape[:2], s.K, s.d)), s.eta, s.B)
        else:
            run = ParameterisedEnsemble(problem, theta, np.broadcast_to(e, (*theta.shape[:2], s.d)), s.eta, s.B, s.K)
    if s.eta * speeds.max() >= 2:
        raise UserError(
            f"eta={s.eta:g} is unstable, as the largest curvature is {speeds.max():.3g}: choose one below {2 / speeds.max():.3g}."
        )

    predict = prediction(problem, s, theta, e)
    # Too large a step overshoots: then the fastest mode may be the slowest to settle.
    slowest = min(0.5, float((1 - abs(1 - s.eta * speeds)).min()), float(s.eta * slow.min()))
    left = s.tolerance * min(1.0, predict(np.zeros(1)) / float(problem.loss(w).mean()))
    before, window = burn_in(slowest, left), round(s.window / slowest)
    every = max(1, round(1 / (s.eta * speeds.max())))  # the fastest mode's time: nothing is lost in between
    trajectory = simulate(run, s.seeds, s.repetitions, (s.model, s.K), before + window, every)
    records = slice(before // every, None)
    squared = trajectory.squared_embeddings
    return Measurement(
        settings=s,
        loss=steady_state(trajectory.losses[..., records].reshape(len(s.seeds) * s.repetitions, -1)),
        theory=predict(np.linspace(before, before + window, 5)),
        burn_in=before,
        window=window,
        every=every,
        squared_phi=None if squared is None else float(squared[..., records].mean()),
        seconds=time.monotonic() - began,
    )


def start(problem: NoisyQuadratic, s: Settings) -> tuple[Array, Array, Array]:
    """w̄ ``[seeds, repetitions, n]`` at distance 1 from w* in a random direction, and θ ``[seeds, repetitions, n, d]`` with
    e ``[d]``, ‖e‖ = φ_0, that make it. With T0 = 0 all members start there (σ0 = 0).

    θ and e are only fixed up to a rotation of the embedding space, so that e may have equal elements. What w̄ leaves open of θ is
    Gaussian, of the same root mean square as what it doesn't.
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
    """The θ next to ``theta`` ``[n, d]`` with θe = w*."""
    return theta + np.outer(problem.target - theta @ e, e) / (e @ e)


def prediction(problem: NoisyQuadratic, s: Settings, theta: Array, e: Array) -> Callable[[Array], float]:
    """The closed form as a function of steps ``[times]``, averaged over these and over seeds."""
    if s.model == "full":
        loss = full_ensemble_loss(problem, s.eta, s.B, s.K)
        return lambda times: loss
    closed_form, shared = (late_phase_loss, s.K) if s.model == "late_phase" else (parameterised_loss, 1)

    def predict(times: Array) -> float:
        losses = []
        for part in theta[:, 0]:
            if s.d == 1:
                imbalance = float(part[:, 0] @ part[:, 0]) - s.phi0**2
                phis = np.sqrt(drift(problem, imbalance, s.eta, s.B, shared, np.append(times, times[-1] + 1))[:-1])
                states = [(problem.target[:, None] / phi, np.array([phi])) for phi in phis]
            else:
                states = [(settled(problem, part, e), e)]
            losses += [closed_form(problem, *state, s.eta, s.B, s.K) for state in states]
        return float(np.mean(losses))

    return predict
