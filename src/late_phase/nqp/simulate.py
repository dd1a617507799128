"""Algorithm 1 and full ensembles on the noisy quadratic problem. One step covers all members, repetitions and seeds.

The leading axes ``...`` of every state run over independent runs, here ``[seeds, repetitions]``. All weights are in the modes of
the problem. Eqs. 7, 8 and 32 write the noise with a plus. The gradient of Eq. 4 gives it a minus, as here. The law is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from late_phase.nqp.problem import Array, NoisyQuadratic
from late_phase.support.errors import UserError
from late_phase.support.seeding import generator


class Ensemble(Protocol):
    """An ensemble that :func:`simulate` can train."""

    problem: NoisyQuadratic
    eta: float
    draws: tuple[int, ...]
    """Shape of the standard normal numbers that one step of one run needs."""

    def step(self, draws: Array) -> None: ...

    def mean_model(self) -> Array: ...

    def squared_embedding(self) -> Array | None: ...


class LatePhaseEnsemble:
    """w_k = θ e_k with shared θ and late-phase e_k: Algorithm 1 with gradient descent and γ_θ = 1/K (Eq. 6, Eq. 7, Eq. 8).

    Scalar late-phase weights φ_k are embeddings of dimension d = 1.

    Args:
        theta: θ, ``[..., n, d]`` in modes.
        e: the members' embeddings, ``[..., K, d]``.
        eta: learning rate.
        B: minibatch size.
    """

    def __init__(self, problem: NoisyQuadratic, theta: Array, e: Array, eta: float, B: int) -> None:
        self.problem, self.theta, self.e, self.eta, self.B = problem, theta.copy(), e.copy(), eta, B
        self.target = problem.to_modes(problem.target)[:, None]
        self.K, self.d = e.shape[-2:]
        # Noise reaches θ through at most d mixtures of the members' minibatches, and the embeddings through K d numbers.
        self._mixtures = min(self.K, self.d)
        self.draws = (self._mixtures * problem.n + (self.K * self.d if self.d < self.K else 0),)

    def step(self, draws: Array) -> None:
        """Makes one iteration, K inner steps and one step of θ, with noise from ``draws`` ``[..., *self.draws]``.

        A minibatch's noise z_k = H ε_k/√B acts only in two ways: (1/K) Σ_k z_k e_kᵀ moves θ, and θᵀ z_k moves e_k. Given θ and the
        embeddings, both are Gaussian. They are drawn with their exact joint law (Eq. 29) from nd + Kd numbers instead of nK. Let U
        ``[K, min(K, d)]`` be an orthonormal basis of the span of Eᵀ. The mixtures UᵀZ are independent of the rest (1 − U Uᵀ)Z, and
        only the part of this rest along θ matters.
        """
        mixtures, rest = np.split(draws, [self._mixtures * self.problem.n], axis=-1)
        mixtures = mixtures.reshape(*mixtures.shape[:-1], self._mixtures, self.problem.n)
        mixtures = self.problem.noise(mixtures) / np.sqrt(self.B)
        basis = _orthonormal_basis(self.e)
        noise_theta = _product(mixtures.swapaxes(-1, -2), basis.swapaxes(-1, -2) @ self.e / self.K)
        noise_e = _product(basis, mixtures @ self.theta)
        if self.d < self.K:
            along = self.problem.noise_along(self.theta)
            rest = rest.reshape(*rest.shape[:-1], self.K, self.d)
            rest = _product(rest, _square_root(along.swapaxes(-1, -2) @ along / self.B))
            noise_e += rest - _product(basis, basis.swapaxes(-1, -2) @ rest)
        self._move(noise_theta, noise_e)

    def step_with(self, epsilon: Array) -> None:
        """Makes one iteration with the given noise ε ``[..., K, n]`` of the members, in modes, as in Eqs. 7 and 8."""
        z = self.problem.curvature * epsilon / np.sqrt(self.B)
        self._move(z.swapaxes(-1, -2) @ self.e / self.K, z @ self.theta)

    def _move(self, noise_theta: Array, noise_e: Array) -> None:
        """Moves θ and e_k. Both gradients are taken at the iteration's start, as in Algorithm 1."""
        second_moment = self.e.swapaxes(-1, -2) @ self.e / self.K
        h_theta = self.problem.curvature[:, None] * self.theta
        towards = self.target * self.e.mean(-2)[..., None, :]
        gradient = self.problem.curvature[:, None] * (_product(self.theta, second_moment) - towards) + noise_theta
        gradient_e = _product(self.e, h_theta.swapaxes(-1, -2) @ self.theta) - self.target.T @ h_theta + noise_e
        self.theta -= self.eta * gradient
        self.e -= self.eta * gradient_e

    def mean_model(self) -> Array:
        """Returns w̄ = θ ē ``[..., n]`` in modes."""
        return _product(self.theta, self.e.mean(-2)[..., None])[..., 0]

    def squared_embedding(self) -> Array:
        """Returns ‖ē‖² ``[...]``. For scalar late-phase weights this is the square of the mean φ."""
        return (self.e.mean(-2) ** 2).sum(-1)


class ParameterisedEnsemble:
    """The average of K independent models w_k = θ_k e_k, each trained by gradient descent: the baseline models w = θφ of Figure 1.

    Args:
        theta: θ at the start, ``[..., n, d]`` in modes, the same for all members.
        e: embedding at the start, ``[..., d]``.
    """

    def __init__(self, problem: NoisyQuadratic, theta: Array, e: Array, eta: float, B: int, K: int) -> None:
        self.problem, self.eta = problem, eta
        theta = np.repeat(theta[..., None, :, :], K, axis=-3)
        self.members = LatePhaseEnsemble(problem, theta, np.repeat(e[..., None, None, :], K, axis=-3), eta, B)
        self.draws = (K, *self.members.draws)

    def step(self, draws: Array) -> None:
        self.members.step(draws)

    def mean_model(self) -> Array:
        return self.members.mean_model().mean(-2)

    def squared_embedding(self) -> Array:
        return self.members.squared_embedding().mean(-1)


class FullEnsemble:
    """The average of K independent weight vectors w_k (Eqs. 32 and 33).

    Args:
        w: weights at the start, ``[..., n]`` in modes, the same for all members.
    """

    def __init__(self, problem: NoisyQuadratic, w: Array, eta: float, B: int, K: int) -> None:
        self.problem, self.eta, self.B = problem, eta, B
        self.target = problem.to_modes(problem.target)
        self.w = np.repeat(w[..., None, :], K, axis=-2)
        self.draws = (K, problem.n)

    def step(self, draws: Array) -> None:
        gradient = self.problem.curvature * (self.w - self.target) + self.problem.noise(draws) / np.sqrt(self.B)
        self.w -= self.eta * gradient

    def mean_model(self) -> Array:
        return self.w.mean(-2)

    def squared_embedding(self) -> None:
        return None


@dataclass(frozen=True)
class Trajectory:
    """Records of a simulation, taken every ``every`` iterations, ``[seeds, repetitions, records]``.

    Attributes:
        losses: losses of the mean model (the expression inside Eq. 5).
        squared_embeddings: ‖ē‖²; None for full ensembles.
    """

    losses: Array
    squared_embeddings: Array | None
    every: int


def simulate(
    ensemble: Ensemble, seeds: Sequence[int], repetitions: int, purpose: Sequence[str | int], steps: int, every: int = 1
) -> Trajectory:
    """Simulates ``steps`` iterations of an ensemble whose leading axes are ``[seeds, repetitions]``.

    Each seed has its own stream of noise, named by ``purpose``. So its runs don't depend on the other seeds.

    Raises:
        UserError: the runs diverge.
    """
    streams = [np.random.Generator(np.random.SFC64(generator(seed, "nqp", *purpose).initial_seed())) for seed in seeds]
    loss, target = ensemble.problem.loss_in_modes, ensemble.problem.to_modes(ensemble.problem.target)
    # Large blocks save calls, small ones stay in the cache.
    block = max(1, 50_000 // (len(seeds) * repetitions * int(np.prod(ensemble.draws))))
    draws = np.empty((len(seeds), block, repetitions, *ensemble.draws))
    losses = np.empty((len(seeds), repetitions, steps // every))
    squared_embeddings = None if ensemble.squared_embedding() is None else np.empty_like(losses)
    limit = 1e6 * (1 + float(loss(target)))  # far above w = 0 and any start at a distance of about 1

    def diverged(t: int) -> UserError:
        return UserError(f"eta={ensemble.eta} makes the runs diverge after {t + 1} steps: choose a smaller one.")

    with np.errstate(all="ignore"):  # values that aren't finite are refused below
        for t in range(steps):
            if t % block == 0:
                for stream, part in zip(streams, draws, strict=True):
                    stream.standard_normal(out=part)
            try:
                ensemble.step(draws[:, t % block])
            except np.linalg.LinAlgError as error:  # of a matrix that isn't finite
                raise diverged(t) from error
            if (t + 1) % every == 0:
                record = t // every
                losses[..., record] = loss(ensemble.mean_model() - target)
                if squared_embeddings is not None:
                    squared_embeddings[..., record] = ensemble.squared_embedding()
                if not (losses[..., record] < limit).all():
                    raise diverged(t)
    return Trajectory(losses, squared_embeddings, every)


def _product(a: Array, b: Array) -> Array:
    """Returns a @ b. An inner axis of one element is broadcast, which is ten times as fast as a batch of matrix products."""
    return a * b if a.shape[-1] == 1 else a @ b


def _orthonormal_basis(e: Array) -> Array:
    """Returns orthonormal columns ``[..., K, min(K, d)]`` whose span contains the columns of e ``[..., K, d]``."""
    if e.shape[-1] == 1:
        return e / np.sqrt(e.swapaxes(-1, -2) @ e)
    return np.linalg.qr(e)[0]


def _square_root(matrix: Array) -> Array:
    """Returns R with Rᵀ R = ``matrix`` ``[..., d, d]``. The matrix may be singular."""
    if matrix.shape[-1] == 1:
        return np.sqrt(matrix)
    values, vectors = np.linalg.eigh(matrix)
    return np.sqrt(np.maximum(values, 0))[..., None] * vectors.swapaxes(-1, -2)
