"""Algorithms 1 and 4 written down literally, slowly and independently of the package: what the fast path is compared with.

No optimizer class, no in-place update, no live model: weights are dicts of tensors, a member is a dict of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Weights = dict[str, Tensor]
Update = Callable[[Tensor, Tensor, dict[str, Any]], Tensor]
"""U(weight, gradient, the weight's own optimizer state) -> new weight."""


def nesterov(lr: float, momentum: float, weight_decay: float) -> Update:
    """SGD with Nesterov momentum in torch's form."""

    def update(weight: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        gradient = gradient + weight_decay * weight
        state["v"] = momentum * state["v"] + gradient if "v" in state else gradient
        return weight - lr * (gradient + momentum * state["v"])

    return update


def adam(lr: float, weight_decay: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> Update:
    """Adam (Kingma & Ba, 2015, Algorithm 1), with L2 regularization."""

    def update(weight: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        gradient = gradient + weight_decay * weight
        state["t"] = state.get("t", 0) + 1
        state["m"] = beta1 * state.get("m", 0) + (1 - beta1) * gradient
        state["s"] = beta2 * state.get("s", 0) + (1 - beta2) * gradient**2
        m, s = state["m"] / (1 - beta1 ** state["t"]), state["s"] / (1 - beta2 ** state["t"])
        return weight - lr * m / (s.sqrt() + eps)

    return update


class LatePhaseReference:
    """Plain training until :meth:`spawn`, Algorithm 1 from then on."""

    def __init__(self, model: nn.Module, update_theta: Update, update_phi: Update | None = None) -> None:
        self.model = model
        self.update_theta, self.update_phi = update_theta, update_phi or update_theta
        self.theta: Weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.theta_state: dict[str, dict[str, Any]] = {name: {} for name in self.theta}
        self.statistics: Weights = {name: b.detach().clone() for name, b in model.named_buffers()}
        self.phi: list[Weights] = [{}]
        self.phi_state: list[dict[str, dict[str, Any]]] = [{}]
        self.phi_statistics: list[Weights] = [{}]
        self.k = 0
        self.sum: Weights = {}
        self.gamma_theta = 1.0
        self.pull, self.outer = 0.0, 0.0
        self.velocity: Weights = {}

    def spawn(
        self, phi: list[Weights], statistics: Iterable[str], gamma_theta: float, pull: float = 0.0, outer: float = 0.0
    ) -> None:
        """Makes the weights in ``phi[k]`` and the named running statistics belong to member k."""
        self.gamma_theta, self.pull, self.outer, self.velocity = gamma_theta, pull, outer, {}
        self.phi = [{name: value.clone() for name, value in weights.items()} for weights in phi]
        own = [self.theta_state.pop(name) for name in phi[0] if self.theta.pop(name) is not None]
        self.phi_state = [{name: dict(state) for name, state in zip(phi[0], own, strict=True)} for _ in phi]
        shared = {name: self.statistics.pop(name) for name in statistics}
        self.phi_statistics = [{name: value.clone() for name, value in shared.items()} for _ in phi]

    def inner_step(self, x: Tensor, y: Tensor) -> None:
        phi = self.phi[self.k]
        weights = {name: w.clone().requires_grad_() for name, w in (self.theta | phi).items()}
        statistics = self.statistics | self.phi_statistics[self.k]  # the forward pass updates these very tensors
        loss = F.cross_entropy(torch.func.functional_call(self.model, weights | statistics, (x,)), y)
        gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        for name in phi:
            phi[name] = self.update_phi(phi[name], gradients[name], self.phi_state[self.k][name])
        for name in self.theta:
            self.sum[name] = self.sum.get(name, 0) + gradients[name]
        self.k += 1
        if self.k == len(self.phi):
            for name in self.theta:
                moved = self.update_theta(self.theta[name], self.gamma_theta * self.sum[name], self.theta_state[name])
                step = moved - self.theta[name]
                self.velocity[name] = self.outer * self.velocity.get(name, 0) + step
                self.theta[name] = self.theta[name] + step + self.outer * self.velocity[name]
            for name in phi:
                mean = sum(weights[name] for weights in self.phi) / len(self.phi)
                for weights in self.phi:
                    weights[name] = mean + (1 - self.pull) * (weights[name] - mean)
            self.k, self.sum = 0, {}
