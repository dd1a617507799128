"""The optimizer that θ and the K members share: torch's optimizer interface, saving and loading.

:mod:`late_phase.method` adds the steps.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from late_phase.base_gradients import BaseGradients
from late_phase.checks import MEMBERS, share
from late_phase.members import Members, Phi
from late_phase.outer_momentum import OuterMomentum
from late_phase.parameter_groups import THETA, ParameterGroups
from late_phase.processes import Processes
from late_phase.supported_optimizers import HARMLESS, HiddenStateWatch


@dataclass
class Live:
    """What changes during training. It is an object of its own, so that a wrapper that copies the attributes shares it, as
    Lightning's does.

    Attributes:
        members: the members; None before ``spawn()``.
        stepping: whether ``step()`` is running.
        blocks: depth of ``member()`` blocks.
        steps: number of steps.
        scattered: whether several processes hold different parts of the state, until ``gather()``.
    """

    members: Members | None = None
    stepping: bool = False
    blocks: int = 0
    steps: int = 0
    scattered: bool = False


class SharedOptimizer(torch.optim.Optimizer):
    """``LatePhase`` without its steps: wraps an optimizer, and keeps the separate states of its owners, θ and the K members.

    Args:
        optimizer: the wrapped optimizer.
        phi: the late-phase weights in the live model.
        K: number of members.
        gamma_theta: γ_θ, scale of the accumulated base gradient.
        phi_options: options of the optimizer that φ gets at T0.
        pull: see :class:`late_phase.LatePhase`.
        outer: see :class:`late_phase.LatePhase`.
        processes: the processes that train the model together, if there are several.

    Raises:
        TypeError: a late-phase weight is sharded.
        ValueError: an option is unknown, or the optimizer lacks a late-phase weight. Or ``pull`` or ``outer`` is out of range, or
            has nothing to act on.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        phi: Phi,
        K: int,
        gamma_theta: float,
        phi_options: dict[str, Any],
        pull: float,
        outer: float,
        processes: Processes | None,
    ) -> None:
        # Optimizer.__init__ isn't called, because the wrapped optimizer provides parameter groups, state and defaults.
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
        theta = self._groups.parameters(THETA)
        self._base_gradients = BaseGradients(theta, gamma_theta)
        self.pull, self._outer = share(pull, "pull", whole=True), OuterMomentum(theta, share(outer, "outer", whole=False))
        self._refuse_idle()
        self._live = Live()
        self._processes = processes

    # Makes GradScaler unscale the gradients before they are summed, even if the optimizer could do it within its step.
    _step_supports_amp_scaling = False

    # torch's optimizer interface. Optimizer.load_state_dict replaces `state` and `param_groups`, so properties look them up.

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
            raise AttributeError(f"LatePhase has no {name!r}, and neither has its optimizer.")
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
        """Discards the gradients since the last ``step()``, and keeps the sum that θ has accumulated before."""
        self.optimizer.zero_grad(set_to_none)

    # Late-phase weights.

    @property
    def spawned(self) -> bool:
        """Whether there are members: ``spawn()`` was called, or a state with members was loaded."""
        return self._live.members is not None

    @property
    def phi(self) -> list[str]:
        """Full names of the late-phase weights."""
        return list(self._phi.parameters)

    @property
    def entered(self) -> int | None:
        """Index of the member in the live model, from 0; None before ``spawn()``."""
        return None if self._live.members is None else self._live.members.entered

    @property
    def members(self) -> dict[str, Tensor] | None:
        """Φ and the members' running statistics by full name, as ``[K, ...]``; None before ``spawn()``."""
        if self._live.members is None:
            return None
        self._refuse_scattered("the members")
        self._live.members.store()
        return self._live.members.values

    @property
    def outer(self) -> float:
        return self._outer.momentum

    def _refuse_idle(self) -> None:
        """Refuses a ``pull`` or an ``outer`` that has nothing to act on, or that would move weights behind the optimizer's back."""
        if self.pull > 0 and not self._phi.parameters:
            raise ValueError(f"pull={self.pull} pulls late-phase weights together, but there are none: choose some, or pull=0.")
        if self.outer > 0 and (not self._outer.theta or self._base_gradients.gamma_theta == 0):
            raise ValueError(f"outer={self.outer} is for the steps of base weights, but none of these moves: choose outer=0.")
        if self.pull + self.outer > 0 and any("train_mode" in group for group in self.param_groups):
            raise ValueError(
                f"pull={self.pull} and outer={self.outer} would change weights that the schedule-free optimizer averages: choose 0."
            )

    @torch.no_grad()
    def _convert(self, method: str) -> None:
        """Calls a schedule-free optimizer's ``train()`` or ``eval()`` for θ and each member."""
        convert, hidden = getattr(self.optimizer, method), HiddenStateWatch(self.optimizer)
        if self._live.members is None:
            convert()
        else:
            entered = self._live.members.entered
            for k in range(self.K):
                self._live.members.enter(k)
                with self._groups.of(k):
                    convert()
            self._live.members.enter(entered)
            with self._groups.of(THETA):
                convert()
            for group in self.param_groups:
                group["train_mode"] = method == "train"
        hidden.refuse()

    def _refuse_train_mode(self, what: str) -> None:
        if any(group.get("train_mode") for group in self.param_groups):
            raise RuntimeError(f"{what} was called in the schedule-free optimizer's train mode: call late.eval() first.")

    def _refuse_scattered(self, what: str, whole: bool = False) -> None:
        """Refuses to combine members of which other processes have some, or to save a state of which they have a part."""
        if self._live.scattered and (whole or self._processes.divide == MEMBERS):
            raise RuntimeError(f"{what} needs all members, and other processes have some: call gather() on all processes first.")

    def _refuse_within_step(self, what: str) -> None:
        if self._live.stepping:
            raise RuntimeError(f"{what} was called within step(), by its closure: call it between steps.")

    # State.

    @torch.no_grad()
    def state_dict(self) -> dict[str, Any]:
        """Returns all that resuming needs besides the model's own ``state_dict``.

        This is the optimizer's state, the members, their optimizer states and the base gradients of an unfinished iteration, in
        plain dicts and lists. The tensors are references, as in torch's optimizers.
        """
        self._refuse_scattered("state_dict()", whole=True)
        return {
            "K": self.K,
            "phi": self.phi,
            "members": self.members,
            "member": self._live.members.entered if self.spawned else None,
            "member_states": self._live.members.states_in_order() if self.spawned else None,
            "optimizer": self.optimizer.state_dict(),
            "theta_gradients": list(self._base_gradients.sums),
            "groups": self._groups.state_dict(),
            "outer": list(self._outer.velocity),
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores :meth:`state_dict` and the late-phase weights in the live model. Load the model's own state first.

        Raises:
            ValueError: the state is not from a LatePhase, or has another K, another selection or other parameter groups.
        """
        self._refuse_within_step("load_state_dict()")
        self._refuse_foreign(state_dict)
        state_dict = copy.deepcopy(state_dict)
        optimizer_state = state_dict["optimizer"]
        self._live.members = None
        if state_dict["members"] is not None:
            members, states = state_dict["members"], state_dict["member_states"]
            self._live.members = Members.restore(self._phi, self.optimizer, members, states, optimizer_state)
        self.optimizer.load_state_dict(optimizer_state)
        if self.spawned:
            self._live.members.load(state_dict["member"])
        self._live.scattered = False
        # gather() has summed the gradients of all processes, so one of them has the sum.
        kept = self.spawned and (self._processes is None or self._processes.rank == 0)
        self._base_gradients.load(state_dict["theta_gradients"] if kept else [None] * len(self._base_gradients.theta))
        self._groups.load_state_dict(state_dict.get("groups", {}))  # early checkpoints lack this entry
        self._outer.load(state_dict.get("outer", []) if self.spawned else [])  # and this one

    def _refuse_foreign(self, state_dict: Any) -> None:
        if not isinstance(state_dict, dict) or not {"K", "phi", "members", "optimizer"} <= state_dict.keys():
            raise ValueError(
                "this is not the state of a LatePhase: load an optimizer's own state into the optimizer before building LatePhase."
            )
        if state_dict["members"] is not None and state_dict["K"] != self.K:
            raise ValueError(
                f"the state has K={state_dict['K']} members, but this LatePhase has K={self.K}: build LatePhase with the state's K."
            )
        groups = [len(group["params"]) for group in state_dict["optimizer"]["param_groups"]]
        if groups != [len(group["params"]) for group in self.param_groups]:
            raise ValueError(
                f"the state has parameter groups of {groups} tensors, unlike this optimizer: build the optimizer and LatePhase as "
                "before, with the same phi_options."
            )
        if state_dict["members"] is not None and state_dict["phi"] != self.phi:
            other = sorted(set(state_dict["phi"]) ^ set(self.phi))
            raise ValueError(
                f"the state has another selection, which differs in {', '.join(other[:5])}: build LatePhase with that selection."
            )
        live = self._phi.live()
        for name, values in (state_dict["members"] or {}).items():
            if name not in live or values.shape != (self.K, *live[name].shape):
                raise ValueError(
                    f"the state has {name} as {list(values.shape)}, which doesn't fit this model: build the model as before."
                )
        states = state_dict["member_states"] or []
        if state_dict["members"] is not None and [len(own) for own in states] != [len(self.phi)] * self.K:
            raise ValueError("the state lacks optimizer states of members: load one that state_dict() returned.")
