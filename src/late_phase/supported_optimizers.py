"""Checks which optimizers can serve as U_θ and U_φ: those that take one gradient a step and keep their state by parameter.

Late-phase learning gives each member an optimizer state of its own. The state in ``state[parameter]``, and plain entries of a
parameter group, are swapped together with the members. State that is kept elsewhere can't be swapped, so such an optimizer is
refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Attributes that torch's optimizers and schedulers set. They control how a step is made, and hold nothing about earlier gradients.
HARMLESS = {
    *("defaults", "param_groups", "state", "step", "_opt_called", "_step_supports_amp_scaling", "_zero_grad_profile_name"),
    *("_need_device_dtype_check_for_fused", "_warned_capturable_if_run_uncaptured"),
    *(f"_optimizer_{what}_{when}_hooks" for what in ("step", "state_dict", "load_state_dict") for when in ("pre", "post")),
}


def refuse_unsupported(optimizer: Any) -> None:
    """Refuses an optimizer that can't serve both as U_θ and as U_φ.

    Raises:
        TypeError: ``optimizer`` is not a torch optimizer, works through another one, or doesn't take one gradient a step.
    """
    name = f"optimizer is of type {type(optimizer).__name__}"
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"{name}: pass a torch optimizer of the model's parameters.")
    if inner := [key for key, value in vars(optimizer).items() if key not in HARMLESS and _holds_optimizer(value)]:
        raise TypeError(f"{name}, which works through another optimizer ({inner[0]}): pass one that makes its steps itself.")
    arguments = list(inspect.signature(type(optimizer).step).parameters.values())[1:]
    if any(a.default is a.empty and a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD) for a in arguments):
        raise TypeError(f"{name}, whose step() computes gradients by a closure: pass one that takes one gradient a step.")


def _holds_optimizer(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return any(map(_holds_optimizer, value)) if isinstance(value, list | tuple) else isinstance(value, torch.optim.Optimizer)


class HiddenStateWatch:
    """Notices state that can't be swapped with the members. Build it before a step, and call :meth:`refuse` after the step."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._before = self._marks()

    def refuse(self) -> None:
        """Refuses the optimizer if the step has changed such state.

        Raises:
            TypeError: the step has changed more than parameters, their states, and plain entries of parameter groups.
        """
        parameters = {parameter for group in self.optimizer.param_groups for parameter in group["params"]}
        changed = [place for place, mark in self._marks().items() if self._before.get(place) != mark]
        changed += [f"state[{key!r}]" for key in self.optimizer.state if not (isinstance(key, Tensor) and key in parameters)]
        if changed:
            raise TypeError(
                f"optimizer is of type {type(self.optimizer).__name__}, which keeps {changed[0]} for all parameters together, so "
                "members can't have their own: pass one that keeps its state by parameter."
            )

    def _marks(self) -> dict[str, Any]:
        """Returns place -> mark. The mark changes whenever the value at that place does."""
        groups = self.optimizer.param_groups
        places = {key: value for key, value in vars(self.optimizer).items() if key not in HARMLESS}
        for key in {key for group in groups for key in group if key != "params"}:
            # Values that can change in place, which a comparison of the groups before and after a step doesn't notice.
            if mutable := [group[key] for group in groups if isinstance(group.get(key), Tensor | list | dict)]:
                places[f"the {type(mutable[0]).__name__} {key!r} of a parameter group"] = mutable
        parameters = {id(parameter) for group in groups for parameter in group["params"]}
        return {place: _mark(value, parameters) for place, value in places.items()}


def _mark(value: Any, ignored: set[int], depth: int = 4) -> Any:
    """Returns a mark that changes if ``value`` does. Parameters and modules are left out, as they may change."""
    if id(value) in ignored or isinstance(value, nn.Module) or depth == 0:
        return None
    if isinstance(value, Tensor):
        return id(value), value._version
    if hasattr(value, "tobytes"):  # an array, whose repr may be abridged
        return value.tobytes()
    if isinstance(value, dict):
        return [(str(key), _mark(own, ignored, depth - 1)) for key, own in value.items()]
    if isinstance(value, (list, tuple)):
        return [_mark(own, ignored, depth - 1) for own in value]
    return _mark(vars(value), ignored, depth - 1) if hasattr(value, "__dict__") else repr(value)


class Closure:
    """Wraps the closure for an optimizer's ``step()``, which must evaluate it once, before any weight moves.

    Attributes:
        evaluated: whether the optimizer has evaluated the closure.
        loss: the closure's value.
    """

    def __init__(self, closure: Callable[[], Any], parameters: Sequence[nn.Parameter], then: Callable[[], None]) -> None:
        """
        Args:
            closure: returns the loss, and computes its gradients.
            parameters: the weights that must not move before.
            then: called once the gradients are computed.
        """
        self._closure, self._parameters, self._then = closure, parameters, then
        self._versions = self._present_versions()
        self.evaluated = False
        self.loss: Any = None

    def __call__(self) -> Any:
        """Evaluates the closure.

        Raises:
            RuntimeError: this is the second call, or weights have moved already.
        """
        if self.evaluated or self._present_versions() != self._versions:
            raise RuntimeError(
                "the optimizer evaluates the closure more than once, or moves weights before it: pass one that takes one gradient "
                "a step."
            )
        self.evaluated = True
        with torch.enable_grad():
            self.loss = self._closure()
        self._then()
        return self.loss

    def _present_versions(self) -> list[int]:
        return [parameter._version for parameter in self._parameters]
