"""The noisy quadratic problem (Eq. 3, Eq. 4, Eq. 5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from late_phase.support.errors import UserError

Array = NDArray[np.float64]


class NoisyQuadratic:
    """L(w) = ½ (w − w*)ᵀ H (w − w*). Minibatches of size B shift the minimum by ε/√B with ε ~ N(0, Σ) (Eqs. 3 to 5).

    The loss of one minibatch (Eq. 4) has the gradient H (w − w*) + H ε/√B. Gradient descent commutes with rotations. So the
    simulation uses the modes of the problem: coordinates along the eigenvectors of H, in which H is diagonal.

    Args:
        H: Hessian, ``[n, n]`` symmetric and positive definite, or its diagonal ``[n]``.
        Sigma: Σ, covariance of ε, ``[n, n]`` symmetric and positive semi-definite, or its diagonal ``[n]``.
        target: w*, ``[n]``.

    Raises:
        UserError: H, Σ or w* does not meet these conditions, or they differ in n.
    """

    def __init__(self, H: ArrayLike, Sigma: ArrayLike, target: ArrayLike) -> None:
        H, Sigma, self.target = (np.asarray(value, float) for value in (H, Sigma, target))
        self.n = self.target.size
        self.diagonal = H.ndim == Sigma.ndim == 1
        if self.n == 0 or self.target.ndim != 1 or not np.isfinite(self.target).all():
            raise UserError(f"target has the shape {self.target.shape} or values that aren't finite: pass w* as [n] numbers.")
        self.H, self.Sigma = (_matrix(name, value, self.n) for name, value in (("H", H), ("Sigma", Sigma)))
        if self.diagonal:
            self.curvature, self._modes = H, None
            variances = smallest = Sigma
        else:
            self.curvature, self._modes = np.linalg.eigh(self.H)
            variances, axes = np.linalg.eigh(self.Sigma)
            smallest = variances + 1e-12 * abs(variances).max()  # rounding may make an eigenvalue of 0 negative
        if self.curvature.min() <= 0:
            raise UserError(f"H has the eigenvalue {self.curvature.min():.3g}: pass a positive definite H.")
        if smallest.min() < 0:
            raise UserError(f"Sigma has the eigenvalue {variances.min():.3g}: pass a covariance, whose eigenvalues are at least 0.")
        deviations = np.sqrt(np.maximum(variances, 0))
        self._noise = H * deviations if self.diagonal else self.curvature[:, None] * (self._modes.T @ (axes * deviations))

    def to_modes(self, w: Array) -> Array:
        """Converts ``[..., n]`` to the coordinates of H's eigenvectors."""
        return w if self._modes is None else w @ self._modes

    def from_modes(self, w: Array) -> Array:
        """Inverts :meth:`to_modes`."""
        return w if self._modes is None else w @ self._modes.T

    def noise(self, draws: Array) -> Array:
        """Makes the gradient's noise H ε in modes for B = 1 from independent standard normal ``draws``, ``[..., n]``."""
        return draws * self._noise if self.diagonal else draws @ self._noise.T

    def noise_along(self, directions: Array) -> Array:
        """Returns Rᵀ θ ``[..., n, d]`` for directions θ ``[..., n, d]``. R Rᵀ = H Σ H is the noise's covariance; all in modes."""
        return self._noise[:, None] * directions if self.diagonal else self._noise.T @ directions

    @property
    def noise_covariance(self) -> Array:
        """S = H Σ H: the covariance of the gradient's noise for B = 1, ``[n, n]``."""
        return self.H @ self.Sigma @ self.H

    def loss(self, w: Array) -> Array:
        """Returns the expected risk of weights ``[..., n]``, up to a constant (the expression inside Eq. 5)."""
        return self.loss_in_modes(self.to_modes(w) - self.to_modes(self.target))

    def loss_in_modes(self, error: Array) -> Array:
        """Returns the same for w − w* ``[..., n]`` in modes."""
        return 0.5 * (error * error) @ self.curvature


def paper_problem(n: int, target_norm: float) -> NoisyQuadratic:
    """Returns the paper's problem: H_ii = 1/i and Σ = H⁻¹ (Section 3.1). The paper doesn't state the norm of w*.

    All coordinates of w* are equal. Then w*ᵀ H w* = ‖w*‖² Tr[H] / n, and the results don't depend on a draw of w*.

    Raises:
        UserError: n < 1.
    """
    if n < 1:
        raise UserError(f"n={n} is out of range: choose an integer of at least 1.")
    index = np.arange(1, n + 1)
    return NoisyQuadratic(1 / index, index.astype(float), np.full(n, target_norm / np.sqrt(n)))


def _matrix(name: str, value: Array, n: int) -> Array:
    if value.shape not in ((n,), (n, n)) or not np.isfinite(value).all():
        raise UserError(f"{name} has the shape {value.shape} or values that aren't finite: pass [{n}] or [{n}, {n}] numbers.")
    if value.ndim == 1:
        return np.diag(value)
    if not np.allclose(value, value.T, rtol=1e-10, atol=1e-12 * abs(value).max()):
        raise UserError(f"{name} is not symmetric: pass its symmetric part, which gives the same loss.")
    return (value + value.T) / 2
