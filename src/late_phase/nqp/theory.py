"""Appendix C in closed form: full ensembles exactly, late-phase weights by their linear regime and its slow drift.

Vectors and matrices are in the problem's own coordinates. θ is ``[n, d]``, E ``[d, K]`` has the members' embeddings e_k as
columns (Eq. 10), x stacks vec(θ), column by column, and e_1 … e_K (Eqs. 9, 11, 12). Beside the corrections said below, the
appendix has these slips: Eqs. 7, 8 and 32 have a plus before the noise where the gradient of Eq. 4 has a minus (the same in law);
the second term of Eq. 26 is Tr[H θ Γ ē (w̄ − w*)ᵀ H]; in Eq. 25 the vector Δe stacks Δe_k, not e_k; the losses in the texts after
Eqs. 27 and 37 lack the ½ of Eq. 5; and what stands between the brackets of Eq. 31 does depend on K, see :func:`late_phase_loss`
and :func:`drift`.
"""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp
from scipy.linalg import solve_discrete_lyapunov

from late_phase.nqp.problem import Array, NoisyQuadratic

# Full ensembles (C.3).


def propagate(
    problem: NoisyQuadratic, mean: Array, covariance: Array, eta: float, B: int, K: int, steps: int = 1
) -> tuple[Array, Array]:
    """Mean ``[n]`` and covariance ``[n, n]`` of w̄ − w* after ``steps`` steps (Eqs. 34 and 35)."""
    contraction = np.eye(problem.n) - eta * problem.H
    noise = eta**2 / (K * B) * problem.noise_covariance
    for _ in range(steps):
        mean, covariance = contraction @ mean, contraction @ covariance @ contraction + noise
    return mean, covariance


def steady_covariance(problem: NoisyQuadratic, eta: float, B: int, K: int) -> Array:
    """Covariance of w̄ after convergence, ``[n, n]``: the fixed point of Eq. 35, which Eq. 37 writes with a Kronecker inverse."""
    contraction = np.eye(problem.n) - eta * problem.H
    return solve_discrete_lyapunov(contraction, eta**2 / (K * B) * problem.noise_covariance)


def full_ensemble_loss(problem: NoisyQuadratic, eta: float, B: int, K: int) -> float:
    """Expected loss of w̄ after convergence, ½ Tr[H C] with Eq. 37; for Σ = H⁻¹ it is η/(2KB) Σ_i h_i/(2 − η h_i)."""
    return 0.5 * float(np.trace(problem.H @ steady_covariance(problem, eta, B, K)))


# Trace quantities of late-phase learning in continuous time (C.2).


def gradient(problem: NoisyQuadratic, theta: Array, E: Array) -> Array:
    """∇L of the mean model w.r.t. x, ``[nd + Kd]``: Eq. 24, whose second row is (1/K) 𝟙 ⊗ θᵀH(θē − w*) in full."""
    K, e = E.shape[1], E.mean(1)
    residual = problem.H @ (theta @ e - problem.target)
    return np.concatenate([np.kron(e, residual), np.tile(theta.T @ residual, K) / K])


def force(problem: NoisyQuadratic, theta: Array, E: Array) -> Array:
    """F(x), the mean step of Algorithm 1 over −η, ``[nd + Kd]`` (Eq. 16)."""
    residuals = problem.H @ (theta @ E - problem.target[:, None])
    return np.concatenate([(residuals @ E.T / E.shape[1]).T.ravel(), (theta.T @ residuals).T.ravel()])


def hessian(problem: NoisyQuadratic, theta: Array, E: Array) -> Array:
    """Hessian of the mean model's loss w.r.t. x, ``[nd + Kd, nd + Kd]`` (Eq. 28); its lower right 𝟙 is the K × K matrix 𝟙𝟙ᵀ."""
    K, e, Q = E.shape[1], E.mean(1), _Q(problem, theta, E)
    across = np.kron(np.ones((K, 1)), Q) / K
    embeddings = np.kron(np.ones((K, K)), theta.T @ problem.H @ theta) / K**2
    return np.block([[np.kron(np.outer(e, e), problem.H), across.T], [across, embeddings]])


def diffusion(problem: NoisyQuadratic, theta: Array, E: Array) -> Array:
    """D(x)², covariance of one step's noise over η²/B, ``[nd + Kd, nd + Kd]`` (Eq. 29)."""
    K, S = E.shape[1], problem.noise_covariance
    across = np.kron(E, S @ theta) / K
    return np.block([[np.kron(E @ E.T, S) / K**2, across], [across.T, np.kron(np.eye(K), theta.T @ S @ theta)]])


def trace_by_matrices(problem: NoisyQuadratic, theta: Array, E: Array, eta: float, B: int) -> float:
    """½ Tr[D̃² H_L], the right-hand side of Eq. 23, by the matrices of Eqs. 28 and 29; D̃² = 2 D²/β and β = 2B/η."""
    return eta / (2 * B) * float(np.trace(diffusion(problem, theta, E) @ hessian(problem, theta, E)))


def trace_expression(problem: NoisyQuadratic, theta: Array, E: Array, eta: float, B: int) -> float:
    """The same by Eq. 31 at one x, without any matrix larger than ``[nd, nd]``.

    The last trace is Tr[θᵀHΣH θ θᵀ H θ]: the paper lacks a θ, without which the shapes don't agree.
    """
    K, e, S, H = E.shape[1], E.mean(1), problem.noise_covariance, problem.H
    second_moment = E @ E.T / K  # Ẽ²
    first = np.trace(second_moment @ np.outer(e, e)) * np.trace(S @ H)
    mixed = np.trace(np.kron(e[:, None], S @ theta @ _Q(problem, theta, E)))  # the second mixed trace is its transpose's
    last = np.trace(theta.T @ S @ theta @ theta.T @ H @ theta)
    return eta / (2 * B * K) * float(first + 2 * mixed + last)


def full_ensemble_trace_by_matrices(problem: NoisyQuadratic, eta: float, B: int, K: int) -> float:
    """The trace quantity of a full ensemble, by the matrices of Eq. 38, whose 𝟙 is the K × K matrix 𝟙𝟙ᵀ."""
    noise, hessian = np.kron(np.eye(K), problem.noise_covariance), np.kron(np.ones((K, K)), problem.H) / K**2
    return eta / (2 * B) * float(np.trace(noise @ hessian))


def full_ensemble_trace(problem: NoisyQuadratic, eta: float, B: int, K: int) -> float:
    """The same as Eq. 39: Tr[HΣH²]/(Kβ)."""
    return eta / (2 * B * K) * float(np.trace(problem.noise_covariance @ problem.H))


def _Q(problem: NoisyQuadratic, theta: Array, E: Array) -> Array:
    """Q ``[d, nd]`` of Eq. 30, whose θᵀ is vec(θ)ᵀ; row i is ēᵀ ⊗ θ_iᵀH + δ_iᵀ ⊗ (θē − w*)ᵀH."""
    e = E.mean(1)
    return np.kron(e, theta.T @ problem.H) + np.kron(np.eye(len(e)), problem.H @ (theta @ e - problem.target))


# Late-phase learning near w̄ = w*. Not in the paper, which has the scaling with K only.


def preconditioner(theta: Array, e: Array) -> Array:
    """P = ‖ē‖² + θθᵀ ``[n, n]``: what a gradient step of size η on θ and on e does to w̄ = θē is, to first order, −η P ∇L."""
    return (e @ e) * np.eye(len(theta)) + theta @ theta.T


def rates(problem: NoisyQuadratic, theta: Array, e: Array) -> Array:
    """Eigenvalues of P H, ascending, ``[n]``: errors along them shrink by 1 − η times these at each step."""
    root = np.sqrt(problem.curvature)
    theta = problem.to_modes(theta.T).T
    return np.linalg.eigvalsh(root[:, None] * preconditioner(theta, e) * root)


def late_phase_loss(problem: NoisyQuadratic, theta: Array, e: Array, eta: float, B: int, K: int) -> float:
    """Expected loss of w̄ = θē ``[n]`` that fluctuates about w* with θ ``[n, d]`` and ē ``[d]`` as given, to leading orders.

    w̄ moves as if by gradient descent with P and a minibatch of size KB, which makes a loss ∝ 1/K. For Σ = H⁻¹ and small η it is
    η/(4KB) (‖ē‖² Tr[H] + Tr[θᵀHθ]); the model w = θφ thus has a larger loss than a plain one if φ² > 1, or if θ is large.
    But the embeddings also differ from each other, with a covariance Γ that doesn't fall with K. In Eq. 25 it pulls θ towards 0 by
    HθΓ, and so moves w̄ away from w* by b with P H b = −H θ Γ ē: a part of the loss that doesn't fall with K either, ∝ (η/B)².
    """
    H = problem.H
    bias = np.linalg.solve(preconditioner(theta, e) @ H, H @ theta @ spread(problem, theta, eta, B, K) @ e)
    return 0.5 * float(np.trace(H @ _fluctuations(problem, theta, e, eta, K * B)) + bias @ H @ bias)


def parameterised_loss(problem: NoisyQuadratic, theta: Array, e: Array, eta: float, B: int, K: int) -> float:
    """The same of the mean of K independent models w_k = θ_k e_k.

    Their fluctuations average out, but not their common bias b: a steady θ has H E[(w − w*) eᵀ] = 0 (Eq. 7), hence b = −X e/‖e‖²
    with X ``[n, d]`` the covariance of w and e.
    """
    H, S, P = problem.H, problem.noise_covariance, preconditioner(theta, e)
    fluctuations = _fluctuations(problem, theta, e, eta, B)
    X = np.linalg.solve(P @ H, eta / B * P @ S @ theta - fluctuations @ H @ theta)  # no change of E[(w − w*) δeᵀ]
    bias = X @ e / (e @ e)
    return 0.5 * float(np.trace(H @ fluctuations) / K + bias @ H @ bias)


def _fluctuations(problem: NoisyQuadratic, theta: Array, e: Array, eta: float, B: int) -> Array:
    """Steady covariance of w̄ ``[n, n]`` under gradient descent with P and minibatches of size B."""
    P = preconditioner(theta, e)
    noise = eta**2 / B * P @ problem.noise_covariance @ P
    return solve_discrete_lyapunov(np.eye(problem.n) - eta * P @ problem.H, noise)


def spread(problem: NoisyQuadratic, theta: Array, eta: float, B: int, K: int) -> Array:
    """Γ ``[d, d]``, steady covariance of the members' embeddings about ē: each is pulled by its own minibatches (Eq. 8).

    It is found in the eigenvectors of θᵀHθ, along which the errors shrink independently. Where d > n some of these have the
    eigenvalue 0: neither gradients nor noise move the embeddings along them.
    """
    pull, axes = np.linalg.eigh(theta.T @ problem.H @ theta)
    moves = pull > len(pull) * np.finfo(float).eps * pull[-1]
    step = eta * pull
    noise = axes.T @ ((1 - 1 / K) * eta**2 / B * theta.T @ problem.noise_covariance @ theta) @ axes
    lost = np.add.outer(step, step) - np.outer(step, step)  # of a covariance at each step
    steady = np.divide(noise, lost, out=np.zeros_like(noise), where=np.outer(moves, moves))
    return axes @ steady @ axes.T


def drift(problem: NoisyQuadratic, imbalance: float, eta: float, B: int, K: int, times: Array) -> Array:
    """φ̄² at ``times`` (in steps, ascending, ``[times]``) with scalar late-phase weights: how long the linear regime lasts.

    No gradient changes ‖θ‖² − φ̄², the ``imbalance`` of the start, which fixes φ̄² where w̄ = θφ̄ = w*. Noise does, at second order:
    it adds (η²/KB)(φ̄² Tr[S] − θᵀSθ) a step with S = HΣH, and the members' own spread Γ takes 2ηΓ θᵀHθ away. The latter doesn't
    fall with K. Both ends meet at φ̄⁴ = K w*ᵀSw*/Tr[S] for small η. So φ̄ in the limit t → ∞ depends on K, and for Σ = H⁻¹ the loss
    there is ∝ (√K + 1/√K)/K: rather 1/√K than 1/K. The way there takes in the order of nB/(η² Tr[S]) steps.
    """
    total = float(np.trace(problem.noise_covariance))
    w = problem.target
    size, pull, stiffness = float(w @ w), float(w @ problem.noise_covariance @ w), float(w @ problem.H @ w)

    def slope(_: float, u: Array) -> Array:
        damping = (1 - 1 / K) * 2 / (2 - eta * stiffness / u)  # 2ηΓ θᵀHθ over η²/B θᵀSθ
        return -(eta**2) / B * ((total * u - pull / u) / K - damping * pull / u) / (size / u**2 + 1)

    root = np.sqrt(imbalance**2 + 4 * size)  # ‖w*‖²/φ² − φ² = imbalance
    start = 2 * size / (root + imbalance) if imbalance > 0 else (root - imbalance) / 2  # no difference of what is almost equal
    return solve_ivp(slope, (0, times[-1]), [start], method="LSODA", t_eval=times, rtol=1e-6).y[0]


def lasting_squared_phi(problem: NoisyQuadratic, K: int) -> float:
    """φ̄² in the limit t → ∞, to first order in η: see :func:`drift`."""
    w, S = problem.target, problem.noise_covariance
    return float(np.sqrt(K * (w @ S @ w) / np.trace(S)))
