"""Appendix C in closed form: full ensembles exactly, late-phase weights by their linear regime and its slow drift.

Vectors and matrices are in the problem's own coordinates. θ is ``[n, d]``. E ``[d, K]`` has the members' embeddings e_k as
columns (Eq. 10). x stacks vec(θ), column by column, and e_1 … e_K (Eqs. 9, 11, 12).

Some docstrings below correct the appendix. It also has these slips:

* Eqs. 7, 8 and 32 have a plus before the noise, where the gradient of Eq. 4 has a minus. The law is the same.
* The second term of Eq. 26 is Tr[H θ Γ ē (w̄ − w*)ᵀ H].
* In Eq. 25 the vector Δe stacks Δe_k, not e_k.
* The losses in the texts after Eqs. 27 and 37 lack the ½ of Eq. 5.
* The bracket in Eq. 31 depends on K: see :func:`late_phase_loss` and :func:`drift`.
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
    """Returns the mean ``[n]`` and covariance ``[n, n]`` of w̄ − w* after ``steps`` steps (Eqs. 34 and 35)."""
    contraction = np.eye(problem.n) - eta * problem.H
    noise = eta**2 / (K * B) * problem.noise_covariance
    for _ in range(steps):
        mean, covariance = contraction @ mean, contraction @ covariance @ contraction + noise
    return mean, covariance


def steady_covariance(problem: NoisyQuadratic, eta: float, B: int, K: int) -> Array:
    """Returns the covariance of w̄ after convergence, ``[n, n]``: Eq. 35's fixed point, in Eq. 37 a Kronecker inverse."""
    contraction = np.eye(problem.n) - eta * problem.H
    return solve_discrete_lyapunov(contraction, eta**2 / (K * B) * problem.noise_covariance)


def full_ensemble_loss(problem: NoisyQuadratic, eta: float, B: int, K: int) -> float:
    """Returns the expected loss of w̄ after convergence, ½ Tr[H C] with C from Eq. 37.

    For Σ = H⁻¹ it is η/(2KB) Σ_i h_i/(2 − η h_i).
    """
    return 0.5 * float(np.trace(problem.H @ steady_covariance(problem, eta, B, K)))


# Trace quantities of late-phase learning in continuous time (C.2).


def gradient(problem: NoisyQuadratic, theta: Array, E: Array) -> Array:
    """Returns ∇L of the mean model w.r.t. x, ``[nd + Kd]`` (Eq. 24). In full, its second row is (1/K) 𝟙 ⊗ θᵀH(θē − w*)."""
    K, e = E.shape[1], E.mean(1)
    residual = problem.H @ (theta @ e - problem.target)
    return np.concatenate([np.kron(e, residual), np.tile(theta.T @ residual, K) / K])


def force(problem: NoisyQuadratic, theta: Array, E: Array) -> Array:
    """Returns F(x), the mean step of Algorithm 1 divided by −η, ``[nd + Kd]`` (Eq. 16)."""
    residuals = problem.H @ (theta @ E - problem.target[:, None])
    return np.concatenate([(residuals @ E.T / E.shape[1]).T.ravel(), (theta.T @ residuals).T.ravel()])


def hessian(problem: NoisyQuadratic, theta: Array, E: Array) -> Array:
    """Returns the Hessian of the mean model's loss w.r.t. x, ``[nd + Kd, nd + Kd]`` (Eq. 28).

    Its lower right 𝟙 is the K × K matrix 𝟙𝟙ᵀ.
    """
    K, e, Q = E.shape[1], E.mean(1), _Q(problem, theta, E)
    across = np.kron(np.ones((K, 1)), Q) / K
    embeddings = np.kron(np.ones((K, K)), theta.T @ problem.H @ theta) / K**2
    return np.block([[np.kron(np.outer(e, e), problem.H), across.T], [across, embeddings]])


def diffusion(problem: NoisyQuadratic, theta: Array, E: Array) -> Array:
    """Returns D(x)², the covariance of one step's noise divided by η²/B, ``[nd + Kd, nd + Kd]`` (Eq. 29)."""
    K, S = E.shape[1], problem.noise_covariance
    across = np.kron(E, S @ theta) / K
    return np.block([[np.kron(E @ E.T, S) / K**2, across], [across.T, np.kron(np.eye(K), theta.T @ S @ theta)]])


def trace_by_matrices(problem: NoisyQuadratic, theta: Array, E: Array, eta: float, B: int) -> float:
    """Returns ½ Tr[D̃² H_L], the right-hand side of Eq. 23, from the matrices of Eqs. 28 and 29.

    D̃² is 2 D²/β, and β is 2B/η.
    """
    return eta / (2 * B) * float(np.trace(diffusion(problem, theta, E) @ hessian(problem, theta, E)))


def trace_expression(problem: NoisyQuadratic, theta: Array, E: Array, eta: float, B: int) -> float:
    """Returns the same by Eq. 31 at one x, without any matrix larger than ``[nd, nd]``.

    The last trace is Tr[θᵀHΣH θ θᵀ H θ]. The paper lacks one of these θ, so its shapes don't agree.
    """
    K, e, S, H = E.shape[1], E.mean(1), problem.noise_covariance, problem.H
    second_moment = E @ E.T / K  # Ẽ²
    first = np.trace(second_moment @ np.outer(e, e)) * np.trace(S @ H)
    mixed = np.trace(np.kron(e[:, None], S @ theta @ _Q(problem, theta, E)))  # the second mixed trace is its transpose's
    last = np.trace(theta.T @ S @ theta @ theta.T @ H @ theta)
    return eta / (2 * B * K) * float(first + 2 * mixed + last)


def full_ensemble_trace_by_matrices(problem: NoisyQuadratic, eta: float, B: int, K: int) -> float:
    """Returns the trace quantity of a full ensemble from the matrices of Eq. 38, whose 𝟙 is the K × K matrix 𝟙𝟙ᵀ."""
    noise, hessian = np.kron(np.eye(K), problem.noise_covariance), np.kron(np.ones((K, K)), problem.H) / K**2
    return eta / (2 * B) * float(np.trace(noise @ hessian))


def full_ensemble_trace(problem: NoisyQuadratic, eta: float, B: int, K: int) -> float:
    """Returns the same by Eq. 39: Tr[HΣH²]/(Kβ)."""
    return eta / (2 * B * K) * float(np.trace(problem.noise_covariance @ problem.H))


def _Q(problem: NoisyQuadratic, theta: Array, E: Array) -> Array:
    """Returns Q ``[d, nd]`` of Eq. 30, whose θᵀ is vec(θ)ᵀ. Row i is ēᵀ ⊗ θ_iᵀH + δ_iᵀ ⊗ (θē − w*)ᵀH."""
    e = E.mean(1)
    return np.kron(e, theta.T @ problem.H) + np.kron(np.eye(len(e)), problem.H @ (theta @ e - problem.target))


# Late-phase learning near w̄ = w*. The paper has only the scaling with K.


def preconditioner(theta: Array, e: Array) -> Array:
    """Returns P = ‖ē‖² + θθᵀ ``[n, n]``.

    To first order, a gradient step of size η on θ and on e moves w̄ = θē by −η P ∇L.
    """
    return (e @ e) * np.eye(len(theta)) + theta @ theta.T


def rates(problem: NoisyQuadratic, theta: Array, e: Array) -> Array:
    """Returns the eigenvalues λ of P H, ascending, ``[n]``. Each step multiplies the errors in their modes by 1 − ηλ."""
    root = np.sqrt(problem.curvature)
    theta = problem.to_modes(theta.T).T
    return np.linalg.eigvalsh(root[:, None] * preconditioner(theta, e) * root)


def late_phase_loss(problem: NoisyQuadratic, theta: Array, e: Array, eta: float, B: int, K: int) -> float:
    """Returns the expected loss of w̄ = θē ``[n]``, which fluctuates about w*, for θ ``[n, d]`` and ē ``[d]``, to leading orders.

    w̄ moves like gradient descent with P and minibatches of size KB, which gives a loss ∝ 1/K. For Σ = H⁻¹ and small η this loss
    is η/(4KB) (‖ē‖² Tr[H] + Tr[θᵀHθ]). So the model w = θφ has a larger loss than a plain one if φ² > 1 or θ is large.

    The embeddings also differ from each other, with a covariance Γ that doesn't fall with K. In Eq. 25 it pulls θ towards 0 by
    HθΓ. This moves w̄ away from w* by b with P H b = −H θ Γ ē, and adds a loss ∝ (η/B)² that doesn't fall with K either.
    """
    H = problem.H
    bias = np.linalg.solve(preconditioner(theta, e) @ H, H @ theta @ spread(problem, theta, eta, B, K) @ e)
    return 0.5 * float(np.trace(H @ _fluctuations(problem, theta, e, eta, K * B)) + bias @ H @ bias)


def parameterised_loss(problem: NoisyQuadratic, theta: Array, e: Array, eta: float, B: int, K: int) -> float:
    """Returns the expected loss of the mean of K independent models w_k = θ_k e_k.

    Their fluctuations average out, but their common bias b doesn't. A steady θ has H E[(w − w*) eᵀ] = 0 (Eq. 7). Hence
    b = −X e/‖e‖², where X ``[n, d]`` is the covariance of w and e.
    """
    H, S, P = problem.H, problem.noise_covariance, preconditioner(theta, e)
    fluctuations = _fluctuations(problem, theta, e, eta, B)
    X = np.linalg.solve(P @ H, eta / B * P @ S @ theta - fluctuations @ H @ theta)  # no change of E[(w − w*) δeᵀ]
    bias = X @ e / (e @ e)
    return 0.5 * float(np.trace(H @ fluctuations) / K + bias @ H @ bias)


def _fluctuations(problem: NoisyQuadratic, theta: Array, e: Array, eta: float, B: int) -> Array:
    """Returns the steady covariance ``[n, n]`` of w̄ under gradient descent with P and minibatches of size B."""
    P = preconditioner(theta, e)
    noise = eta**2 / B * P @ problem.noise_covariance @ P
    return solve_discrete_lyapunov(np.eye(problem.n) - eta * P @ problem.H, noise)


def spread(problem: NoisyQuadratic, theta: Array, eta: float, B: int, K: int) -> Array:
    """Returns Γ ``[d, d]``, the steady covariance of the members' embeddings about ē. Each has its own minibatches (Eq. 8).

    Along the eigenvectors of θᵀHθ, the errors shrink independently. For d > n some eigenvalues are 0: neither gradients nor noise
    move the embeddings along these eigenvectors.
    """
    pull, axes = np.linalg.eigh(theta.T @ problem.H @ theta)
    moves = pull > len(pull) * np.finfo(float).eps * pull[-1]
    step = eta * pull
    noise = axes.T @ ((1 - 1 / K) * eta**2 / B * theta.T @ problem.noise_covariance @ theta) @ axes
    lost = np.add.outer(step, step) - np.outer(step, step)  # share of a covariance that each step removes
    steady = np.divide(noise, lost, out=np.zeros_like(noise), where=np.outer(moves, moves))
    return axes @ steady @ axes.T


def drift(problem: NoisyQuadratic, imbalance: float, eta: float, B: int, K: int, times: Array) -> Array:
    """Returns φ̄² at ``times`` (in steps, ascending, ``[times]``) for scalar late-phase weights: how long the linear regime lasts.

    The ``imbalance`` is ‖θ‖² − φ̄² at the start. Gradients don't change it, and it fixes φ̄² where w̄ = θφ̄ = w*. Noise changes it
    at second order. With S = HΣH, noise adds (η²/KB)(φ̄² Tr[S] − θᵀSθ) at each step, and the members' spread Γ takes away
    2ηΓ θᵀHθ, which doesn't fall with K. For small η both balance at φ̄⁴ = K w*ᵀSw*/Tr[S]. So φ̄ in the limit t → ∞ depends on K.
    For Σ = H⁻¹ the loss there is ∝ (√K + 1/√K)/K, which is closer to 1/√K than to 1/K. Reaching this limit takes on the order of
    nB/(η² Tr[S]) steps.
    """
    total = float(np.trace(problem.noise_covariance))
    w = problem.target
    size, pull, stiffness = float(w @ w), float(w @ problem.noise_covariance @ w), float(w @ problem.H @ w)

    def slope(_: float, log_u: Array) -> Array:
        u = np.exp(log_u)
        damping = (1 - 1 / K) * 2 / (2 - eta * stiffness / u)  # 2ηΓ θᵀHθ over η²/B θᵀSθ
        return -(eta**2) / B * ((total * u - pull / u) / K - damping * pull / u) / (size / u + u)

    root = np.sqrt(imbalance**2 + 4 * size)  # ‖w*‖²/φ² − φ² = imbalance
    start = 2 * size / (root + imbalance) if imbalance > 0 else (root - imbalance) / 2  # avoids subtracting almost equal numbers
    # Of the logarithm, because φ̄² may be far smaller than the solver's absolute tolerance.
    return np.exp(solve_ivp(slope, (0, times[-1]), [np.log(start)], method="LSODA", t_eval=times, rtol=1e-6).y[0])


def lasting_squared_phi(problem: NoisyQuadratic, K: int) -> float:
    """Returns φ̄² in the limit t → ∞, to first order in η: see :func:`drift`."""
    w, S = problem.target, problem.noise_covariance
    return float(np.sqrt(K * (w @ S @ w) / np.trace(S)))
