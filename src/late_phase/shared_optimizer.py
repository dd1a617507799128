"""The optimizer that θ and the K members share: what torch expects of an optimizer, and its state.

The steps that it makes are in :mod:`late_phase.method`.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor

from late_phase.base_gradients import BaseGradients
from late_phase.members import Members, Phi
from late_phase.parameter_groups import THETA, ParameterGroups
from late_phase.supported_optimizers import HARMLESS, HiddenState


class SharedOptimizer(torch.optim.Optimizer):
    """Wraps an optimizer, and keeps what its owners, θ and each of the members, have of their own. ``LatePhase`` without its steps.

    Args:
        optimizer: the wrapped optimizer.
        phi: the late-phase weights in the live model.
        K: number of members.
        gamma_theta: γ_θ, scale of the accumulated base gradient.
        phi_options: options of the optimizer that φ gets at T0.

    Raises:
        TypeError: a late-phase weight is sharded.
        ValueError: an unknown option, or a late-phase weight that the optimizer doesn't have.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, phi: Phi, K: int, gamma_theta: float, phi_options: dict[str, Any]) -> None:
        # Optimizer.__init__ isn't called: parameter groups, state and defaults are those of the wrapped optimizer.
        optimized = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        for name, parameter in phi.parameters.items():
            if parameter not in optimized:
                raise ValueError(f"late-phase weight {name} is not in the optimizer: pass it all of model.parameters().")
            if hasattr(parameter, "device_mesh"):
                raise TypeError(f"late-phase weight {name} is sharded (a DTensor): keep it whole on each process, or leave it out.")
        self.optimizer = optimizer
        self.K = K
        self._phi = phi
        self._groups = ParameterGroups(optimizer, set(phi.parameters.values()), phi_options)
        self._base_gradients = BaseGradients(self._groups.parameters(THETA), gamma_theta)
        self._members: Members | None = None
        self._stepping = False  # whether step() is being made

    # GradScaler is to unscale the gradients itself, before they are added up, also if the optimizer could do it within its step.
    _step_supports_amp_scaling = False

    # What a torch optimizer has, delegated. `state` and `param_groups` are replaced by Optimizer.load_state_dict, hence properties.

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    @property
    def state(self) -> dict[Tensor, Any]:
        return self.optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:
        return self.optimizer.defaults

    def __getattr__(self, name: str) -> Any:
        optimizer = self.__dict__.get("optimizer")
        if name in HARMLESS:
            return getattr(optimizer, name)
        if not hasattr(optimizer, name) or name.startswith("_"):
            raise AttributeError(f"LatePhase has no {name!r}, nor has its optimizer.")
        if name in ("train", "eval"):
            return functools.partial(self._convert, name)
        raise AttributeError(
            f"LatePhase doesn't pass on {name!r} of {type(optimizer).__name__}, which could move weights of the live member only: "
            "train with step(), or read it from late.optimizer."
        )

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("LatePhase can't be copied or pickled, as it belongs to its model: use state_dict() and load_state_dict().")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        raise RuntimeError("parameters can't be added to LatePhase: give them to the optimizer before building LatePhase.")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Discards the gradients since the last ``step()``; those already accumulated for θ are kept."""
        self.optimizer.zero_grad(set_to_none)

    # Late-phase weights.

    @property
    def spawned(self) -> bool:
        """Whether T0 has passed: ``spawn()`` was called or a spawned state loaded."""
        return self._members is not None

    @property
    def phi(self) -> list[str]:
        """Full names of the late-phase weights."""
        return list(self._phi.parameters)

    @property
    def members(self) -> dict[str, Tensor] | None:
        """Φ and the members' running statistics: full name -> ``[K, ...]``; None before ``spawn()``."""
        if self._members is None:
            return None
        self._members.store()
        return self._members.values

    @torch.no_grad()
    def _convert(self, method: str) -> None:
        """A schedule-free optimizer's ``train()`` or ``eval()``, for θ and all members."""
        convert, hidden = getattr(self.optimizer, method), HiddenState(self.optimizer)
        if self._members is None:
            convert()
        else:
            entered = self._members.entered
            for k in range(self.K):
                self._members.enter(k)
                with self._groups.of(k):
                    convert()
            self._members.enter(entered)
            with self._groups.of(THETA):
                convert()
            for group in self.param_groups:
                group["train_mode"] = method == "train"
        hidden.refuse()

    def _refuse_train_mode(self, what: str) -> None:
        if any(group.get("train_mode") for group in self.param_groups):
            raise RuntimeError(f"{what} was called in the schedule-free optimizer's train mode: call late.eval() first.")

    def _refuse_within_step(self, what: str) -> None:
        if self._stepping:
            raise RuntimeError(f"{what} was called within step(), by its closure: call it between steps.")

    # State.

    @torch.no_grad()
    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs beside the model's own ``state_dict``: the optimizer's state, the members, their optimizer states
        and the base gradients of an unfinished iteration. Plain dicts and tensors, references as in torch's optimizers."""
        return {
            "K": self.K,
            "phi": self.phi,
            "members": self.members,
            "member": self._members.entered if self.spawned else None,
            "member_states": self._members.states_in_order() if self.spawned else None,
            "optimizer": self.optimizer.state_dict(),
            "theta_gradients": list(self._base_gradients.sums),
            "groups": self._groups.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`, and with it the late-phase weights in the live model; load the model's own state before.

        Raises:
            ValueError: the state is none of a LatePhase, or of members of another K or selection, or of other parameter groups.
        """
        self._refuse_within_step("load_state_dict()")
        self._refuse_foreign(state_dict)
        state_dict = copy.deepcopy(state_dict)
        optimizer_state = state_dict["optimizer"]
        self._members = None
        if state_dict["members"] is not None:
            members, states = state_dict["members"], state_dict["member_states"]
            self._members = Members.restore(self._phi, self.optimizer, members, states, optimizer_state)
        self.optimizer.load_state_dict(optimizer_state)
        if self.spawned:
            self._members.load(state_dict["member"])
        self._base_gradients.load(state_dict["theta_gradients"] if self.spawned else [None] * len(self._base_gradients.theta))
        self._groups.load_state_dict(state_dict.get("groups", {}))  # the first checkpoints had none

    def _refuse_foreign(self, state_dict: Any) -> None:
        if not isinstance(state_dict, dict) or not {"K", "phi", "members", "optimizer"} <= state_dict.keys():
            raise ValueError("this is no state of a LatePhase: load an optimizer's own state into it before building LatePhase.")
        if state_dict["members"] is not None and state_dict["K"] != self.K:
            raise ValueError(f"the state has K={state_dict['K']} members, this LatePhase K={self.K}: build it with the former.")
        groups = [len(group["params"]) for group in state_dict["optimizer"]["param_groups"]]
        if groups != [len(group["params"]) for group in self.param_groups]:
            raise ValueError(
                f"the state is of an optimizer with parameter groups of {groups} tensors: build the optimizer and LatePhase, "
                "with or without phi_options, as they were."
            )
        if state_dict["members"] is not None and state_dict["phi"] != self.phi:
            other = sorted(set(state_dict["phi"]) ^ set(self.phi))
            raise ValueError(
                f"the state is of another selection, which differs in {', '.join(other[:5])}: build LatePhase with it."
            )
