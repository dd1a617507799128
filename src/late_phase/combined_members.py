"""What the K members give together: all weights, the single model (Eq. 1), and the ensemble's prediction."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from late_phase.checks import MEMBERS, check_running_statistics
from late_phase.ensemble import checked_logits, ensemble_log_probs
from late_phase.running_statistics import evaluation_mode, recompute_running_statistics
from late_phase.shared_optimizer import SharedOptimizer
from late_phase.weights import state_with


class CombinedMembers(SharedOptimizer):
    """``LatePhase`` without its steps, but with all that combines the members.

    Attributes:
        model: the live model.
    """

    model: nn.Module

    @torch.no_grad()
    def gather(self) -> None:
        """Gives all processes the same state. Call it on all of them before anything that combines members, and ``state_dict()``.

        Each process gets every member, with its optimizer state, from the process that trains it, and the running statistics of
        the first process. The base gradients of an unfinished iteration are summed on the first process. With one process, and
        before ``spawn()``, it does nothing.
        """
        processes, members = self._processes, self._live.members
        if processes is None or not self._live.scattered:
            return
        self._live.scattered = False
        members.store()
        kept, states = self._groups.state_dict(), members.states_in_order()
        for k in range(self.K):
            source = processes.owner(k)
            processes.send([values[k] for values in members.values.values()], source)
            if processes.divide == MEMBERS:
                device = next(self.model.parameters()).device
                own, kept[k] = processes.send_states([states[k], kept.get(k, [{} for _ in self.param_groups])], source, device)
                members.states[k] = {p: state for p, state in zip(self._phi.parameters.values(), own, strict=True) if state}
        self._groups.load_state_dict(kept)
        members.load(members.entered)
        self._base_gradients.gather(processes)
        processes.send(self.model.buffers(), 0)

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
        self._refuse_scattered(f"member({k})")
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

        Raises:
            ValueError: ``running_statistics`` is unknown, or ``folded`` can't fold a layer.
            RuntimeError: processes that divide the members haven't called ``gather()``, or the optimizer is schedule-free and in
                train mode.
        """
        if running_statistics not in ("mean", "folded"):
            raise ValueError(f"running_statistics={running_statistics!r} is unknown: choose mean or folded, or see average().")
        self._refuse_train_mode("averaging")
        self._refuse_scattered("averaging")
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
                :func:`late_phase.running_statistics.fold_batchnorm`.
            batches: training batches, for ``recompute`` only.
            forward: runs the model on a batch as ``forward(model, batch)``, for ``recompute`` only.

        Raises:
            ValueError: ``running_statistics`` is unknown, ``recompute`` has no batches, or another choice has some. Or ``folded``
                can't fold a layer, because it shares its scales.
            RuntimeError: processes that divide the members haven't called ``gather()``, the model can't be copied, or the
                optimizer is schedule-free and in train mode.
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
