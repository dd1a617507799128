"""Optimizers of other people's kinds, as they are found in the wild."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


class Plain(torch.optim.Optimizer):
    """θ <- θ - lr ∇, as short as an optimizer can be."""

    def __init__(self, params: Any, lr: float = 0.1, **more: Any) -> None:
        super().__init__(params, {"lr": lr, **more})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.move(parameter, group)
        return loss

    def move(self, parameter: torch.nn.Parameter, group: dict[str, Any]) -> None:
        parameter.sub_(parameter.grad, alpha=group["lr"])


class CountsInGroup(Plain):
    """The rate falls with the steps of the group, which counts them, as apex's and timm's optimizers do."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
        return super().step(closure)

    def move(self, parameter, group):
        parameter.sub_(parameter.grad, alpha=group["lr"] / group["count"])


class GlobalNorm(Plain):
    """Divides by the norm of all gradients that it sees, as LAMB does before its own arithmetic."""

    def step(self, closure=None):
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        self.param_groups[0]["norm"] = float(torch.stack([g.norm() for g in gradients]).norm()) if gradients else 1.0
        for group in self.param_groups:
            group["norm"] = self.param_groups[0]["norm"]
        return super().step(closure)

    def move(self, parameter, group):
        parameter.sub_(parameter.grad, alpha=group["lr"] / group["norm"])


class CountsInAttribute(Plain):
    count = 0

    def step(self, closure=None):
        self.count += 1
        return super().step(closure)


class CountsInTracker(Plain):
    def __init__(self, params, **options):
        super().__init__(params, **options)
        self.tracker = {"history": [0]}

    def step(self, closure=None):
        self.tracker["history"].append(1)
        return super().step(closure)


class AveragesInAttribute(Plain):
    def __init__(self, params, **options):
        super().__init__(params, **options)
        self.averages = [p.detach().clone() for group in self.param_groups for p in group["params"]]

    def step(self, closure=None):
        loss = super().step(closure)
        torch._foreach_mul_(self.averages, 0.9)
        return loss


class CountsInTensorOfGroup(Plain):
    def __init__(self, params, **options):
        super().__init__(params, count=torch.zeros(()), **options)

    def step(self, closure=None):
        for group in self.param_groups:
            group["count"] += 1
        return super().step(closure)


class StateOfAll(Plain):
    def step(self, closure=None):
        self.state["all"] = {"count": 1}
        return super().step(closure)


class ListInGroup(Plain):
    def __init__(self, params, **options):
        super().__init__(params, rates=[0.1], **options)

    def step(self, closure=None):
        for group in self.param_groups:
            group["rates"].append(0.1)
        return super().step(closure)


class ArrayInAttribute(Plain):
    def __init__(self, params, **options):
        super().__init__(params, **options)
        self.counts = np.zeros(5000)

    def step(self, closure=None):
        self.counts[2500] += 1
        return super().step(closure)


class FlagAtFirstStep(Plain):
    """Sets something up once, which is no state that members could differ in."""

    initialized = False

    def step(self, closure=None):
        self.initialized, self.tables = True, [torch.ones(3)] if not self.initialized else self.tables
        return super().step(closure)


class StateIfMissing(Plain):
    """Momentum, in a state that is set up where there is none; its tensors share a count."""

    def step(self, closure=None):
        count = None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter not in self.state:
                    count = torch.zeros(()) if count is None else count
                    self.state[parameter] = {"average": torch.zeros_like(parameter), "count": count}
        counts = [self.state[p]["count"] for group in self.param_groups for p in group["params"] if p in self.state]
        for once in {id(count): count for count in counts}.values():
            once += 1
        return super().step(closure)

    def move(self, parameter, group):
        state = self.state[parameter]
        state["average"].mul_(0.5).add_(parameter.grad)
        parameter.sub_(state["average"], alpha=group["lr"] / state["count"].item())


class SharpnessAware(Plain):
    """Two gradients a step, by methods of its own (as in Foret et al., 2021)."""

    @torch.no_grad()
    def first_step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.state[parameter]["before"] = parameter.clone()
                    parameter.add_(parameter.grad, alpha=0.05)

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.copy_(self.state[parameter]["before"])
        Plain.step(self)

    def step(self, closure=None):
        if closure is None:
            return super().step()
        loss = closure()
        self.first_step()
        closure()
        self.second_step()
        return loss


class MovesFirst(Plain):
    """Moves to another point, and takes the gradient there."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.mul_(0.9)
        return super().step(closure)


class EvaluatesTwice(Plain):
    """Moves along the sum of two gradients."""

    def step(self, closure=None):
        if closure is not None:
            with torch.enable_grad():
                closure()
        return super().step(closure)


class IgnoresClosure(Plain):
    def step(self, closure=None):
        return super().step()


class ListOfOptimizers(Plain):
    """One for matrices and one for the rest, as Muon is used."""

    def __init__(self, params, **options):
        super().__init__(params, **options)
        parameters = [p for group in self.param_groups for p in group["params"]]
        self.parts = {"matrices": [torch.optim.SGD([p for p in parameters if p.dim() > 1], lr=0.1)]}


class Wrapper(torch.optim.Optimizer):
    """Lookahead, SAM, and what accelerators make of an optimizer: it holds the one that makes the steps."""

    def __init__(self, params: Any, **options: Any) -> None:
        self.base_optimizer = torch.optim.SGD(params, **options)
        super().__init__(self.base_optimizer.param_groups, {})

    def step(self, closure=None):
        return self.base_optimizer.step(closure)
