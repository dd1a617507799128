"""Late-phase learning (Algorithms 1 and 4) as a component at the level of the optimizer.

The model never knows that it is an ensemble. Late-phase weights φ are a named subset of a plain model's parameters, plus the
running statistics of the BatchNorm layers among them. The K members live outside of the model, stacked as ``[K, ...]``; before each
inner step one of them is copied into the live model, after it the member's new values are copied out. Class, parameter names and
``state_dict`` of the model stay what they were.

The algorithms are here; what makes :class:`LatePhase` a torch optimizer, saved and loaded, is in
:mod:`late_phase.shared_optimizer`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from late_phase.checks import amount, check_running_statistics, number_of_members
from late_phase.ensemble import checked_logits, ensemble_log_probs
from late_phase.members import Members, Phi
from late_phase.parameter_groups import THETA
from late_phase.running_statistics import evaluation_mode, recompute_running_statistics
from late_phase.selection import Selection
from late_phase.shared_optimizer import SharedOptimizer
from late_phase.supported_optimizers import Closure, HiddenState, refuse_unsupported
from late_phase.weights import state_with, unwrapped

WATCHED_STEP = 2
"""The step at which an optimizer shows what it keeps: at the first one it may set things up that stay as they are."""


class LatePhase(SharedOptimizer):
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
        refuse_unsupported(optimizer)
        K = number_of_members(K)
        self.sigma0 = amount(sigma0, f"sigma0={sigma0} is not a noise amplitude: choose a number of at least 0.")
        no_scale = f"gamma_theta={gamma_theta} is no scale of a gradient: choose 1, 1/K, or 0 for frozen base weights."
        gamma_theta = amount(gamma_theta, no_scale)
        self.model = unwrapped(model)
        phi = Phi(self.model, Selection.of(select).names(self.model))
        super().__init__(optimizer, phi, K, gamma_theta, phi_options or {})
        self._entered = 0  # depth of member() blocks
        self._steps = 0  # until the optimizer has been watched for long enough

    @property
    def gamma_theta(self) -> float:
        return self._base_gradients.gamma_theta

    def __repr__(self) -> str:
        return (
            f"LatePhase(K={self.K}, sigma0={self.sigma0}, gamma_theta={self.gamma_theta}, "
            f"{len(self._phi.parameters)} late-phase tensors, {'spawned' if self.spawned else 'not spawned'}, {self.optimizer})"
        )

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """All weights by full name: θ as they are, late-phase weights as ``[K, ...]``, before ``spawn()`` K times φ_0.

        They may be changed by the next ``step()``; running statistics are not among them.
        """
        members = self.members
        weights: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            value = parameter.detach()
            if name in self._phi.parameters:
                value = value.expand(self.K, *value.shape) if members is None else members[name]
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
