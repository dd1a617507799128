"""Late-phase learning (Algorithm 1, Algorithm 4), as a wrapper around a torch optimizer.

The model stays a plain model. Late-phase weights φ are a named subset of its parameters, plus the running statistics of BatchNorm
layers that have late-phase weights. The K members are stored outside of the model, stacked as ``[K, ...]``. Before each inner step
one member is copied into the live model, and after the step its new values are copied out. The model keeps its class, its parameter
names and the keys of its ``state_dict``.

This module has the steps of training. :mod:`late_phase.combined_members` averages the members (Eq. 1) and lets them predict
together. :mod:`late_phase.shared_optimizer` makes :class:`LatePhase` a torch optimizer, with saving and loading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from late_phase.checks import MINIBATCHES, amount, check_divide, number_of_members
from late_phase.combined_members import CombinedMembers
from late_phase.members import Members, Phi
from late_phase.parallel_members import in_one_pass
from late_phase.parameter_groups import THETA
from late_phase.processes import Processes
from late_phase.selection import Selection
from late_phase.supported_optimizers import Closure, HiddenStateWatch, refuse_unsupported
from late_phase.weights import unwrapped

WATCHED_STEP = 2
"""The step that is watched for state that members can't have of their own. The first step may set up things that never change."""


class LatePhase(CombinedMembers):
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
        process_group: torch's processes that train the model together, each with a ``LatePhase`` of its own. They begin with the
            weights of the first process. ``step()`` exchanges the gradients, those of θ once in an iteration. So
            DistributedDataParallel needn't: run ``backward()`` within its ``no_sync()``. A ``GradScaler`` would skip steps of
            single processes, so use bfloat16 instead.
        divide: how the processes divide the work after ``spawn()``. Before, each has a part of every minibatch, and they step along
            the mean of their gradients. With ``minibatches`` this goes on. With ``members`` each trains its own members, on whole
            minibatches, and exchanges only the gradients of θ: see :attr:`mine`.

    Raises:
        TypeError: ``optimizer`` or ``select`` is of an unsupported type, or a late-phase weight is sharded.
        ValueError: a number is out of range, ``divide`` or an option is unknown, or the processes can't divide the members. Or the
            selection matches nothing, a frozen parameter, or one that the optimizer lacks. Or a scheduler was built before.
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
        process_group: torch.distributed.ProcessGroup | None = None,
        divide: str = MINIBATCHES,
    ) -> None:
        refuse_unsupported(optimizer)
        K = number_of_members(K)
        self.sigma0 = amount(sigma0, f"sigma0={sigma0} is not a noise amplitude: choose a number of at least 0.")
        no_scale = f"gamma_theta={gamma_theta} is no scale of a gradient: choose 1, 1/K, or 0 for frozen base weights."
        self.model = unwrapped(model)
        check_divide(divide)
        phi = Phi(self.model, Selection.of(select).names(self.model))
        processes = None if process_group is None else Processes(process_group, divide)
        super().__init__(optimizer, phi, K, amount(gamma_theta, no_scale), phi_options or {}, pull, outer, processes)
        if processes is not None:
            processes.begin(self.model, phi, K, pull)

    @property
    def gamma_theta(self) -> float:
        return self._base_gradients.gamma_theta

    def __repr__(self) -> str:
        return (
            f"LatePhase(K={self.K}, sigma0={self.sigma0}, gamma_theta={self.gamma_theta}, "
            f"{len(self._phi.parameters)} late-phase tensors, {'spawned' if self.spawned else 'not spawned'}, {self.optimizer})"
        )

    @torch.no_grad()
    def spawn(self, generator: torch.Generator | None = None, copy_state: bool = True) -> None:
        """Makes the K members from the live weights φ_0 and loads the first one into the live model. Call it once, at time T0.

        φ_k = φ_0 + σ0 ‖φ_0‖ / sqrt(D) ε_k for each tensor of D elements, with standard normal ε_k (Eq. 2).

        Args:
            generator: source of ε, on any device; the global CPU generator by default. Processes that train one model together
                need generators with the same seed.
            copy_state: every member gets its own copy of φ's optimizer state, such as its momentum. Otherwise it begins without.

        Raises:
            RuntimeError: the members already exist.
        """
        if self.spawned:
            raise RuntimeError("spawn() was called before: late-phase weights are spawned once, at T0.")
        self._refuse_within_step("spawn()")
        self._groups.spawn()
        self._live.members = Members.spawn(self._phi, self.optimizer, self.K, self.sigma0, generator, copy_state)
        if self._processes is not None:
            self._processes.send(self._live.members.values.values(), 0)
            self._live.members.load(0)

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
        self._refuse_block("step()")
        if not self.mine:
            raise RuntimeError(f"step() was called for member {self.entered}, which another process trains: call skip() instead.")
        evaluate = None
        if closure is None:
            self._collect_gradients()
        else:
            parameters = [parameter for group in self.param_groups for parameter in group["params"]]
            # The closure may clip the gradients of all groups, as Lightning's does.
            evaluate = Closure(self._groups.whole()(closure), parameters, self._collect_gradients)
        self._live.steps += 1
        hidden = HiddenStateWatch(self.optimizer) if self._live.steps == WATCHED_STEP else None
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

    def parallel(self, loss: Callable[..., Any], minibatches: Sequence[Sequence[Tensor]]) -> Iterator[tuple[Any, ...]]:
        """Computes the gradients of several members in one pass, then gives the live model those of one member after the other.

        Call ``step()`` for each. The trajectory is that of single minibatches, up to rounding; dropout draws other numbers. ::

            def loss(model, images, labels):
                return F.cross_entropy(model(images), labels)

            for (value,) in late.parallel(loss, minibatches):
                late.step()

        The gradient of θ, summed over these members, comes with the first of them. So don't clip the gradients of minibatches here.

        Args:
            loss: is called as ``loss(model, *minibatch)``. It returns the minibatch's mean loss, or a tuple that begins with it.
                :func:`torch.func.vmap` calls it once for all members, with its rules: no ``item()``, and no branch that depends on
                the value of a tensor. Here ``model`` can only be called.
            minibatches: one minibatch of tensors for the member in the live model, one for the next, and so on. They have the same
                shapes.

        Yields:
            what ``loss`` has returned for the minibatch, as a tuple.

        Raises:
            RuntimeError: there are no members or no late-phase weights, or the model can't train several members in one pass. Or
                ``step()`` wasn't called before the next is taken.
            ValueError: there are more minibatches than members left in the iteration, or their shapes differ.
        """
        self._refuse_block("parallel()")
        if self._processes is not None:
            raise RuntimeError("parallel() works in one process: leave process_group out, or use step().")
        return in_one_pass(self._live.members, loss, minibatches)

    def _inner_step(self, members: Members, evaluate: Closure | None) -> None:
        k = members.entered
        if self._phi.parameters:
            with self._groups.of(k):
                self.optimizer.step(evaluate)
        elif evaluate is not None:
            evaluate()
        self._next_member(members)

    def _next_member(self, members: Members) -> None:
        """Moves θ if the iteration ends, and loads the next member."""
        last = members.entered == self.K - 1
        if last and self._base_gradients.released:
            with self._groups.of(THETA), self._outer.step():
                self.optimizer.step()
        members.enter((members.entered + 1) % self.K, self.pull if last else 0.0)

    def _collect_gradients(self) -> None:
        """Takes the gradients away from θ. At the last member of an iteration θ gets the sum over all members instead."""
        if all(parameter.grad is None for group in self.param_groups for parameter in group["params"]):
            raise RuntimeError("step() found no gradient: call loss.backward() before it.")
        processes, spawned = self._processes, self._live.members is not None
        if processes is not None:
            self._live.scattered = spawned
            if self.divides_minibatches:
                everything = [parameter for group in self.param_groups for parameter in group["params"]]
                processes.average(list(self._phi.parameters.values()) if spawned else everything)
        if spawned and (self.K > 1 or self.gamma_theta != 1 or processes is not None):  # otherwise the sum is the gradient itself
            self._base_gradients.accumulate(1.0 if processes is None else processes.share)
            if self.entered == self.K - 1:
                self._release()

    def _release(self) -> None:
        """Gives θ the sum of its gradients over all members.

        Raises:
            RuntimeError: members that processes divide change a buffer that they share.
        """
        if self._processes is not None:
            self._processes.compare_buffers(self.model, self._phi)
        self._base_gradients.release(self._processes)

    @property
    def processes(self) -> int:
        """Number of processes that train the model together."""
        return 1 if self._processes is None else self._processes.size

    @property
    def exchanged(self) -> int:
        """Bytes of gradients that this process has given to sums over all processes."""
        return 0 if self._processes is None else self._processes.exchanged

    @property
    def divides_minibatches(self) -> bool:
        """Whether each of several processes has a part of the next minibatch."""
        return self._processes is not None and (not self.spawned or self._processes.divide == MINIBATCHES)

    @property
    def mine(self) -> bool:
        """Whether this process trains the next minibatch. If not, call ``skip()`` instead of the passes and ``step()``."""
        processes = self._processes
        return processes is None or self.divides_minibatches or processes.owner(self.entered) == processes.rank

    @torch.no_grad()
    def skip(self) -> None:
        """Passes over a minibatch that another process trains, and takes part in moving θ if it is the last of an iteration.

        Raises:
            RuntimeError: the minibatch is this process's, see :attr:`mine`.
        """
        self._refuse_block("skip()")
        if self.mine:
            raise RuntimeError("skip() was called for a minibatch that this process trains: call backward() and step().")
        self._live.scattered = True
        if self.entered == self.K - 1:
            self._release()
        self._next_member(self._live.members)
        self.optimizer.zero_grad()

    def _refuse_block(self, what: str) -> None:
        if self._live.blocks:
            raise RuntimeError(f"{what} was called inside of a member() block: leave the block first.")
