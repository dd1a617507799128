"""Late-phase learning (Algorithms 1 and 4), as a wrapper around a torch optimizer.

The model stays a plain model. Late-phase weights φ are a named subset of its parameters, plus the running statistics of BatchNorm
layers that have late-phase weights. The K members are stored outside of the model, stacked as ``[K, ...]``. Before each inner step
one member is copied into the live model, and after the step its new values are copied out. The model keeps its class, its parameter
names and the keys of its ``state_dict``.

This module has the algorithms. :mod:`late_phase.shared_optimizer` makes :class:`LatePhase` a torch optimizer, with saving and
loading.
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
"""The step that is watched for state that members can't have of their own. The first step may set up things that never change."""


class LatePhase(SharedOptimizer):
    """Wraps a model and its optimizer. Use it in the optimizer's place.

    The wrapped optimizer serves both as U_θ and as U_φ. It sees the parameters of one owner at a time. In each inner step it moves
    φ, with member k's own optimizer state (momentum, Adam's moments, counts of steps). At the end of an iteration it moves θ, whose
    gradient is γ_θ Σ_k Δθ_k.

    Before ``spawn()`` the trajectory is bit for bit that of the optimizer alone. With K = 1 and γ_θ = 1 it stays so afterwards.

    Learning-rate schedulers, ``GradScaler`` (``scaler.step(late)``) and gradient clipping work as with the optimizer itself.
    ``p.grad`` is always the gradient of the current minibatch. ``step()`` clears the gradients. A ``GradScaler`` skips a step that
    overflows, so also call ``zero_grad()`` as usual if you use one. A schedule-free optimizer's ``train()`` and
    ``eval()`` convert θ and all members; call ``eval()`` before ``average()``. Other methods of an optimizer are not passed on,
    because they could move the weights of the live member only.

    Each member has its own BatchNorm running statistics. All other buffers are shared, such as those of ``spectral_norm`` on a
    late-phase weight.

    Args:
        model: any module. For one wrapped by ``torch.compile``, DistributedDataParallel or DataParallel, the module inside is used.
        optimizer: an optimizer of the model's parameters. It must take one gradient a step, and keep its state by parameter or as
            plain entries of its parameter groups.
        select: the late-phase weights: a selection, or names with wildcards, see :mod:`late_phase.selection`.
        K: number of members.
        sigma0: σ0, amplitude of the initialization noise of Eq. 2, relative to each tensor's root mean square.
        gamma_theta: γ_θ, scale of the accumulated base gradient. The paper uses 1 and 1/K. With 0 the base weights are frozen at
            ``spawn()`` (Table 9): neither gradient nor momentum nor weight decay moves them.
        phi_options: options of the optimizer that φ gets at ``spawn()``, such as ``{"weight_decay": 5e-3}``. φ then has parameter
            groups of its own, after all others, so build ``LatePhase`` before any learning-rate scheduler. A parameter group keeps
            its own value of each option that its entry ``fixed`` names. An ``lr`` is φ's learning rate where a scheduler's factor
            is 1. It is in φ's groups from the beginning and takes effect at ``spawn()``.
        pull: after each iteration φ_k <- φ̄ + (1 - pull) (φ_k - φ̄), where φ̄ is the mean of Φ. 0 is the paper's late phase. 1 is a
            population that is averaged after each iteration, as in PAPA and Lookaround.
        outer: Nesterov momentum with which θ takes its step of an iteration, in addition to that of the optimizer, as in SNOO and
            DiLoCo; see :mod:`late_phase.outer_momentum`. 0 is the paper's late phase.

    Raises:
        TypeError: ``optimizer`` or ``select`` is of an unsupported type, or a late-phase weight is sharded.
        ValueError: K < 1, σ0 < 0, γ_θ < 0, or an option is unknown. Or the selection matches nothing, matches a frozen parameter,
            or matches a parameter that the optimizer doesn't have.
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
        pull: float = 0.0,
        outer: float = 0.0,
    ) -> None:
        refuse_unsupported(optimizer)
        K = number_of_members(K)
        self.sigma0 = amount(sigma0, f"sigma0={sigma0} is not a noise amplitude: choose a number of at least 0.")
        no_scale = f"gamma_theta={gamma_theta} is no scale of a gradient: choose 1, 1/K, or 0 for frozen base weights."
        gamma_theta = amount(gamma_theta, no_scale)
        self.model = unwrapped(model)
        phi = Phi(self.model, Selection.of(select).names(self.model))
        super().__init__(optimizer, phi, K, gamma_theta, phi_options or {}, pull, outer)

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
        """Returns all weights by full name: θ as they are, φ as ``[K, ...]``. Before ``spawn()`` φ is φ_0, repeated K times.

        Running statistics are not included. The next ``step()`` may change the returned tensors, so copy what you want to keep.
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
        """Makes the K members from the live weights φ_0 and loads the first one into the live model. Call it once, at time T0.

        φ_k = φ_0 + σ0 ‖φ_0‖ / sqrt(D) ε_k for each tensor of D elements, with standard normal ε_k (Eq. 2). Every member gets its
        own copy of the running statistics and of the optimizer's state.

        Args:
            generator: source of ε, on any device; the global CPU generator by default. Processes that train one model together
                need generators with the same seed.

        Raises:
            RuntimeError: the members already exist.
        """
        if self.spawned:
            raise RuntimeError("spawn() was called before: late-phase weights are spawned once, at T0.")
        self._refuse_within_step("spawn()")
        self._groups.spawn()
        self._live.members = Members.spawn(self._phi, self.optimizer, self.K, self.sigma0, generator)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Makes one inner step and clears the gradients. Call it after ``backward()``.

        It moves φ_k, adds Δθ_k to the sum, and loads the next member into the live model. At the last member of an iteration it
        also moves θ. Before ``spawn()`` it is a step of the wrapped optimizer.

        An iteration is K minibatches, whatever their epochs: it can begin in one epoch and end in the next.

        Args:
            closure: evaluates the loss and its gradients. It is called once, before the step, and its value is returned.

        Raises:
            RuntimeError: there is no gradient, a ``member()`` block is open, or the optimizer takes several gradients a step.
            TypeError: the optimizer keeps a state that members can't have of their own. The second step notices this.
        """
        if self._live.blocks:
            raise RuntimeError("step() was called inside of a member() block: leave the block first.")
        evaluate = None
        if closure is None:
            self._collect_gradients()
        else:
            parameters = [parameter for group in self.param_groups for parameter in group["params"]]
            # The closure may clip the gradients of all groups, as Lightning's does.
            evaluate = Closure(self._groups.whole()(closure), parameters, self._collect_gradients)
        self._live.steps += 1
        hidden = HiddenState(self.optimizer) if self._live.steps == WATCHED_STEP else None
        self._live.stepping = True
        try:
            if self._live.members is None:
                with self._groups.before_spawn():
                    self.optimizer.step(evaluate)
            else:
                self._inner_step(self._live.members, evaluate)
        finally:
            self._live.stepping = False
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
            with self._groups.of(THETA), self._outer.step():
                self.optimizer.step()
        members.enter((k + 1) % self.K, self.pull if k == self.K - 1 else 0.0)

    def _collect_gradients(self) -> None:
        """Takes the gradients away from θ. At the last member of an iteration θ gets the sum over all members instead."""
        if all(parameter.grad is None for group in self.param_groups for parameter in group["params"]):
            raise RuntimeError("step() found no gradient: call loss.backward() before it.")
        if self._live.members is not None and (self.K > 1 or self.gamma_theta != 1):  # otherwise the sum is the gradient itself
            self._base_gradients.accumulate()
            if self._live.members.entered == self.K - 1:
                self._base_gradients.release()

    @contextmanager
    def member(self, k: int) -> Iterator[nn.Module]:
        """Makes the live model member k for the duration of a block, and restores the previous member afterwards.

        Member k keeps all changes that the block makes to the late-phase weights and running statistics.

        Raises:
            RuntimeError: there are no members yet.
            IndexError: there is no member k.
        """
        if not self.spawned:
            raise RuntimeError(f"member({k}) does not exist before spawn(): use the model itself.")
        if not 0 <= k < self.K:
            raise IndexError(f"member({k}) does not exist: there are K={self.K} members, counted from 0.")
        previous = self._live.members.entered
        self._live.members.enter(k)
        self._live.blocks += 1
        try:
            yield self.model
        finally:
            self._live.blocks -= 1
            self._live.members.enter(previous)

    @torch.no_grad()
    def averaged_state_dict(self, running_statistics: str = "mean") -> dict[str, Tensor]:
        """Returns the single model's ``state_dict``: θ and the mean over k of φ_k (Eq. 1).

        Args:
            running_statistics: ``mean`` or ``folded``, see :meth:`average`.
        """
        if running_statistics not in ("mean", "folded"):
            raise ValueError(f"running_statistics={running_statistics!r} is unknown: choose mean or folded, or see average().")
        self._refuse_train_mode("averaging")
        averages: dict[str, Tensor] = {}
        if self._live.members is not None:
            self._live.members.store()
            averages = self._live.members.averages(folded=running_statistics == "folded")
        return state_with(self.model, averages)

    def average(
        self,
        running_statistics: str = "mean",
        batches: Iterable | None = None,
        forward: Callable[[nn.Module, Any], Any] | None = None,
    ) -> nn.Module:
        """Returns the single model: a plain copy of the model with θ and the mean over k of φ_k (Eq. 1).

        The live model stays as it is.

        Args:
            running_statistics: where the copy's BatchNorm statistics come from. ``mean`` takes the mean of the members' statistics.
                ``recompute`` estimates them by a pass over ``batches``, see :func:`recompute_running_statistics`. ``folded`` makes
                each BatchNorm layer exactly the mean of the members' layers in eval mode, see
                :func:`late_phase.running_statistics.fold`.
            batches: training batches, for ``recompute`` only.
            forward: runs the model on a batch as ``forward(model, batch)``, for ``recompute`` only.

        Raises:
            ValueError: ``running_statistics`` is unknown, ``recompute`` has no batches, or another choice has some.
            RuntimeError: the model can't be copied, or the optimizer is schedule-free and in train mode.
        """
        check_running_statistics(running_statistics, batches, forward)
        try:
            single = copy.deepcopy(self.model)
        except Exception as error:  # a module's own __deepcopy__ may raise anything
            raise RuntimeError(f"the model can't be copied ({error}): load averaged_state_dict() into a new one.") from error
        single.load_state_dict(self.averaged_state_dict("folded" if running_statistics == "folded" else "mean"))
        if batches is not None:
            recompute_running_statistics(single, batches, forward)
        return single

    @torch.no_grad()
    def ensemble(self, *inputs: Any, forward: Callable[..., Tensor] | None = None) -> Tensor:
        """Returns the members' joint prediction in eval mode: the log of their mean probabilities, ``[examples, classes]``.

        Args:
            inputs: the model's inputs.
            forward: returns the logits ``[examples, classes]`` when called as ``forward(model, *inputs)``. Pass it if the model
                takes keywords or returns something other than logits.

        Raises:
            RuntimeError: there are no members yet, or the optimizer is schedule-free and in train mode.
            TypeError: the output is not a tensor of logits.
        """
        self._refuse_train_mode("ensemble()")
        log_probs: list[Tensor] = []
        with evaluation_mode(self.model):
            for k in range(self.K):
                with self.member(k) as model:
                    logits = model(*inputs) if forward is None else forward(model, *inputs)
                log_probs.append(checked_logits(logits).log_softmax(-1))
        return ensemble_log_probs(torch.stack(log_probs))
