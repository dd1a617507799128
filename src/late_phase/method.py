"""Late-phase learning (Algorithms 1 and 4) as a component at the level of the optimizer.

The model never knows that it is an ensemble. Late-phase weights φ are a named subset of a plain model's parameters, plus the
running statistics of the BatchNorm layers among them. The K members live outside of the model, stacked as ``[K, ...]``; before each
inner step one of them is copied into the live model, after it the member's new values are copied out. Class, parameter names and
``state_dict`` of the model stay what they were.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from late_phase.base_gradients import BaseGradients
from late_phase.checks import check_running_statistics, gradient_scale, noise_amplitude, number_of_members
from late_phase.ensemble import checked_logits, ensemble_log_probs
from late_phase.members import Members, Phi
from late_phase.parameter_groups import THETA, ParameterGroups
from late_phase.running_statistics import evaluation_mode, recompute_running_statistics
from late_phase.selection import Selection
from late_phase.supported_optimizers import HARMLESS, Closure, HiddenState, refuse_unsupported
from late_phase.weights import state_with, unwrapped

WATCHED_STEP = 2
"""The step at which an optimizer shows what it keeps: at the first one it may set things up that stay as they are."""


class LatePhase(torch.optim.Optimizer):
    """Wraps a model and its optimizer; use it in the optimizer's place.

    One optimizer serves both as U_θ and as U_φ. It sees the parameters of one owner at a time: in each inner step φ, with member
    k's own optimizer state (momentum, Adam's moments, counts of steps); at the end of an iteration θ, whose gradient is
    γ_θ Σ_k Δθ_k.

    Before ``spawn()``, and with K = 1 and γ_θ = 1 also after it, the trajectory is bit for bit that of the optimizer alone.

    Learning-rate schedulers, ``GradScaler`` (``scaler.step(late)``) and gradient clipping work as with the optimizer itself;
    ``p.grad`` is always the gradient of the present minibatch. ``step()`` also clears the gradients; but a ``GradScaler``
    leaves out the step of a minibatch that overflows, so with one call ``zero_grad()`` as always. A schedule-free optimizer's
    ``train()`` and ``eval()`` convert θ and all members; call ``eval()`` before ``average()``. Other methods of an optimizer are
    not passed on, as they could move weights of the live member only.

    Members share all buffers but BatchNorm's running statistics: those of ``spectral_norm`` on a late-phase weight, for example.

    Args:
        model: any module. Wrappers made by ``torch.compile``, DistributedDataParallel and DataParallel are looked through.
        optimizer: an optimizer of the model's parameters. It takes one gradient a step, and keeps its state by parameter, or as
            plain entries of its parameter groups.
        select: which parameters are late-phase weights: a selection, or names with wildcards, see :mod:`late_phase.selection`.
        K: number of members.
        sigma0: σ0, amplitude of the initialization noise of Eq. 2, relative to each tensor's root mean square.
        gamma_theta: γ_θ, scale of the accumulated base gradient; 1 and 1/K are the paper's choices. With 0 the base weights are
            frozen at ``spawn()`` (Table 9): neither gradient nor momentum nor weight decay moves them.
        phi_options: options of the optimizer, such as ``{"weight_decay": 5e-3}``, that φ gets at ``spawn()``. A parameter group
            keeps its own value of an option that its entry ``fixed`` names. φ then has parameter groups of its own, the last ones,
            so build ``LatePhase`` before any learning-rate scheduler. A learning rate is what φ has where a scheduler's factor is
            1; it is in φ's groups from the beginning, and used from ``spawn()`` on.

    Raises:
        TypeError: ``optimizer`` or ``select`` is of another kind, or a late-phase weight is sharded.
        ValueError: K < 1, σ0 < 0, γ_θ < 0, an unknown option, or a selection that matches nothing, a frozen parameter, or a
            parameter that the optimizer doesn't have.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        select: Selection | str | Sequence[str],
        K: int = 10,
        sigma0: float = 0.0,
        gamma_theta: float = 1.0,
        phi_options: dict[str, Any] | None = None,
    ) -> None:
        # Optimizer.__init__ isn't called: parameter groups, state and defaults are those of the wrapped optimizer.
        refuse_unsupported(optimizer)
        K = number_of_members(K)
        self.sigma0 = noise_amplitude(sigma0)
        gamma_theta = gradient_scale(gamma_theta)

        self.model = unwrapped(model)
        self.optimizer = optimizer
        self.K = K

        self._phi = Phi(self.model, Selection.of(select).names(self.model))
        phi = set(self._phi.parameters.values())
        optimized = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        for name, parameter in self._phi.parameters.items():
            if parameter not in optimized:
                raise ValueError(f"late-phase weight {name} is not in the optimizer: pass it all of model.parameters().")
            if hasattr(parameter, "device_mesh"):
                raise TypeError(f"late-phase weight {name} is sharded (a DTensor): keep it whole on each process, or leave it out.")
        self._groups = ParameterGroups(optimizer, phi, phi_options or {})
        self._base_gradients = BaseGradients(self._groups.parameters(THETA), gamma_theta)

        self._members: Members | None = None
        self._entered = 0  # depth of member() blocks
        self._stepping = False
        self._steps = 0  # until the optimizer has been watched for long enough

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

    def __repr__(self) -> str:
        return (
            f"LatePhase(K={self.K}, sigma0={self.sigma0}, gamma_theta={self.gamma_theta}, "
            f"{len(self._phi.parameters)} late-phase tensors, {'spawned' if self.spawned else 'not spawned'}, {self.optimizer})"
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        raise RuntimeError("parameters can't be added to LatePhase: give them to the optimizer before building LatePhase.")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Discards the gradients since the last ``step()``; those already accumulated for θ are kept."""
        self.optimizer.zero_grad(set_to_none)

    # Late-phase learning.

    @property
    def gamma_theta(self) -> float:
        return self._base_gradients.gamma_theta

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
    def weights(self) -> dict[str, Tensor]:
        """All weights by full name: θ as they are, late-phase weights as ``[K, ...]``, before ``spawn()`` K times φ_0.

        They may be changed by the next ``step()``; running statistics are not among them.
        """
        if self._members is not None:
            self._members.store()
        weights: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            value = parameter.detach()
            if name in self._phi.parameters:
                value = self._members.values[name] if self._members else value.expand(self.K, *value.shape)
            weights[name] = value
        return weights

    @torch.no_grad()
    def spawn(self, generator: torch.Generator | None = None) -> None:
        """Makes the K members from the live weights φ_0 (time T0) and enters the first one.

        φ_k = φ_0 + σ0 ‖φ_0‖ / sqrt(D) ε_k for each tensor of D elements, ε_k standard normal (Eq. 2). Running statistics and the
        optimizer's state are copied to every member and from then on belong to it.

        Args:
            generator: source of ε, on any device; the global one of the CPU by default. Processes that train one model together
                need generators of the same seed.

        Raises:
            RuntimeError: the members exist already.
        """
        if self.spawned:
            raise RuntimeError("spawn() was called before: late-phase weights are spawned once, at T0.")
        self._refuse_within_step("spawn()")
        self._groups.spawn()
        self._members = Members.spawn(self._phi, self.optimizer, self.K, self.sigma0, generator)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One inner step, after ``backward()``: φ_k moves, Δθ_k is added up, at the last member of an iteration θ moves; then the
        next member is loaded into the live model. Before ``spawn()`` one step of the optimizer. Clears the gradients.

        An iteration is a count of minibatches and knows nothing of epochs: it carries over their boundaries.

        Args:
            closure: evaluates the loss once, with gradients, before the step; its value is returned.

        Raises:
            RuntimeError: there is no gradient, or a ``member()`` block is open, or the optimizer takes several gradients.
            TypeError: the optimizer keeps a state that members can't have each for itself, which shows at the second step.
        """
        if self._entered:
            raise RuntimeError("step() was called inside of a member() block: leave the block first.")
        evaluate = None
        if closure is None:
            self._collect_gradients()
        else:
            parameters = [parameter for group in self.param_groups for parameter in group["params"]]
            evaluate = Closure(closure, parameters, self._collect_gradients)
        self._steps += 1
        hidden = HiddenState(self.optimizer) if self._steps == WATCHED_STEP else None
        self._stepping = True
        try:
            if self._members is None:
                with self._groups.before_spawn():
                    self.optimizer.step(evaluate)
            else:
                self._inner_step(self._members, evaluate)
        finally:
            self._stepping = False
        if evaluate is not None and not evaluate.evaluated:
            raise RuntimeError("the optimizer does not evaluate the closure: call backward() before step() instead.")
        if hidden is not None:
            hidden.refuse()
        self.optimizer.zero_grad()
        return None if evaluate is None else evaluate.loss

    def _refuse_within_step(self, what: str) -> None:
        if self._stepping:
            raise RuntimeError(f"{what} was called within step(), by its closure: call it between steps.")

    def _inner_step(self, members: Members, evaluate: Closure | None) -> None:
        k = members.entered
        if self._phi.parameters:
            with self._groups.of(k):
                self.optimizer.step(evaluate)
        elif evaluate is not None:
            evaluate()
        if k == self.K - 1 and self._base_gradients.released:
            with self._groups.of(THETA):
                self.optimizer.step()
        members.enter((k + 1) % self.K)

    def _collect_gradients(self) -> None:
        """Takes the gradients of θ away, or, at the last member of an iteration, gives θ those of all members."""
        if all(parameter.grad is None for group in self.param_groups for parameter in group["params"]):
            raise RuntimeError("step() found no gradient: call loss.backward() before it.")
        if self._members is not None and (self.K > 1 or self.gamma_theta != 1):  # else the sum is the gradient
            self._base_gradients.accumulate()
            if self._members.entered == self.K - 1:
                self._base_gradients.release()

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

    @contextmanager
    def member(self, k: int) -> Iterator[nn.Module]:
        """Enters member k: within the block the live model is member k, after it whichever it was before.

        What happens to the late-phase weights and running statistics inside of the block stays with member k.

        Raises:
            RuntimeError: there are no members yet.
            IndexError: there is no member k.
        """
        if not self.spawned:
            raise RuntimeError(f"member({k}) does not exist before spawn(): use the model itself.")
        if not 0 <= k < self.K:
            raise IndexError(f"member({k}) does not exist: there are K={self.K} members, counted from 0.")
        previous = self._members.entered
        self._members.enter(k)
        self._entered += 1
        try:
            yield self.model
        finally:
            self._entered -= 1
            self._members.enter(previous)

    @torch.no_grad()
    def averaged_state_dict(self, running_statistics: str = "mean") -> dict[str, Tensor]:
        """The plain model's ``state_dict`` at θ and the mean over k of φ_k (Eq. 1).

        Args:
            running_statistics: ``mean`` or ``folded``, see :meth:`average`.
        """
        if running_statistics not in ("mean", "folded"):
            raise ValueError(f"running_statistics={running_statistics!r} is unknown: choose mean or folded, or see average().")
        self._refuse_train_mode("averaging")
        averages: dict[str, Tensor] = {}
        if self._members is not None:
            self._members.store()
            averages = self._members.averages(folded=running_statistics == "folded")
        return state_with(self.model, averages)

    def average(
        self,
        running_statistics: str = "mean",
        batches: Iterable | None = None,
        forward: Callable[[nn.Module, Any], Any] | None = None,
    ) -> nn.Module:
        """The single model: a plain copy of the model at θ and the mean over k of φ_k (Eq. 1). The live model is left as it is.

        Args:
            running_statistics: where the copy's BatchNorm statistics come from. ``mean``: the mean of the members' statistics.
                ``recompute``: a pass over ``batches``, see :func:`recompute_running_statistics`. ``folded``: each BatchNorm layer
                is the mean of the members' layers in eval mode, exactly, see :func:`late_phase.running_statistics.fold`.
            batches: training batches, for ``recompute`` only.
            forward: runs the model on a batch, for ``recompute`` only.

        Raises:
            ValueError: another choice, or ``recompute`` without batches.
            RuntimeError: the model can't be copied, or the optimizer is schedule-free and in train mode.
        """
        check_running_statistics(running_statistics, batches, forward)
        try:
            single = copy.deepcopy(self.model)
        except Exception as error:  # whatever the modules' own copying raises
            raise RuntimeError(f"the model can't be copied ({error}): load averaged_state_dict() into a new one.") from error
        single.load_state_dict(self.averaged_state_dict("folded" if running_statistics == "folded" else "mean"))
        if batches is not None:
            recompute_running_statistics(single, batches, forward)
        return single

    @torch.no_grad()
    def ensemble(self, *inputs: Any, forward: Callable[..., Tensor] | None = None) -> Tensor:
        """Log-probabilities ``[examples, classes]`` of the mean of the members' predictive distributions, in eval mode.

        Args:
            inputs: what the model takes.
            forward: gives the logits ``[examples, classes]`` by ``forward(model, *inputs)``, where the model's own output is
                something else, or where it takes keywords.

        Raises:
            RuntimeError: there are no members yet, or the optimizer is schedule-free and in train mode.
            TypeError: the output is no tensor of logits.
        """
        self._refuse_train_mode("ensemble()")
        log_probs: list[Tensor] = []
        with evaluation_mode(self.model):
            for k in range(self.K):
                with self.member(k) as model:
                    logits = model(*inputs) if forward is None else forward(model, *inputs)
                log_probs.append(checked_logits(logits).log_softmax(-1))
        return ensemble_log_probs(torch.stack(log_probs))

    def _refuse_train_mode(self, what: str) -> None:
        if any(group.get("train_mode") for group in self.param_groups):
            raise RuntimeError(f"{what} was called in the schedule-free optimizer's train mode: call late.eval() first.")

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
