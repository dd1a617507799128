"""Several members' gradients in one pass.

θ is constant within an iteration of Algorithm 1, so its inner steps don't depend on each other. Several of them can share one
forward and one backward pass, in which φ and the minibatches are stacked. ``LatePhase.parallel`` offers this to users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from late_phase.members import Members
from late_phase.running_statistics import normalization_layers, running_statistics


def in_one_pass(
    members: Members | None, loss: Callable[..., Any], minibatches: Sequence[Sequence[Tensor]]
) -> Iterator[tuple[Any, ...]]:
    """See :meth:`late_phase.LatePhase.parallel`. The pass runs at once; the iterator gives its gradients to the members in turn."""
    if members is None or not members.phi.parameters:
        raise RuntimeError("parallel() needs members with late-phase weights: use the model itself before spawn().")
    K, left = len(members.states), len(members.states) - members.entered
    if not 1 <= len(minibatches) <= left:
        raise ValueError(
            f"parallel() got {len(minibatches)} minibatches, and {left} of K={K} members are left in this iteration: "
            f"pass from 1 to {left}."
        )
    if len({tuple(tensor.shape for tensor in minibatch) for minibatch in minibatches}) > 1:
        raise ValueError("parallel() got minibatches of different shapes: pass those of one shape, and use step() for the others.")
    first, (returned, gradients) = members.entered, backward(members, loss, minibatches)

    def in_turn() -> Iterator[tuple[Any, ...]]:
        for k, own in enumerate(returned):
            if members.entered != (first + k) % K:
                raise RuntimeError("step() must be called once for each minibatch of parallel().")
            for name, gradient in gradients.items():
                members.phi.parameters[name].grad = gradient[k]
            yield own

    return in_turn()


def backward(
    members: Members, loss: Callable[..., Any], minibatches: Sequence[Sequence[Tensor]]
) -> tuple[list[Any], dict[str, Tensor]]:
    """Runs the passes of the member in the live model and of those after it, one for each of ``minibatches``.

    The gradients of θ, summed over these members, are added to ``.grad``. The running statistics become those after the passes.

    Args:
        loss: see :meth:`late_phase.LatePhase.parallel`.

    Returns:
        what ``loss`` has returned for each member, and the gradients of φ by full name, ``[minibatches, ...]``.

    Raises:
        RuntimeError: the model or ``loss`` does something that can't be done for several members at once.
    """
    model, first, n = members.phi.model, members.entered, len(minibatches)
    members.store()
    rows = {name: values[first : first + n] for name, values in members.values.items()}
    phi = {name: rows[name].detach().requires_grad_() for name in members.phi.parameters}
    # Copies, because a pass that fails in the middle must leave no trace.
    own = {name: row.clone() for name, row in rows.items() if name not in phi}
    shared = _shared_statistics(model, set(own))
    stacked = {name: before.expand(n, *before.shape).clone() for name, (_, before) in shared.items()}
    theta = {name: parameter for name, parameter in model.named_parameters() if name not in phi}

    def of_one(own: dict[str, Tensor], *minibatch: Tensor) -> Any:
        returned = loss(lambda *inputs, **keywords: functional_call(model, theta | own, inputs, keywords), *minibatch)
        return returned if isinstance(returned, tuple) else (returned,)

    inputs = [torch.stack(tensors) for tensors in zip(*minibatches, strict=True)]
    try:
        returned = vmap(of_one, randomness="different")(phi | own | stacked, *inputs)
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise RuntimeError(
            f"this model can't train several members in one pass ({reason}): train them one after the other."
        ) from error
    returned[0].sum().backward()

    with torch.no_grad():
        for name, value in own.items():
            rows[name].copy_(value)
        for name, (momentum, before) in shared.items():
            before.copy_(_in_turn(momentum, before, stacked[name]))
    members.load(first)
    gradients = {name: value.grad for name, value in phi.items() if value.grad is not None}
    return [tuple(part[k] for part in returned) for k in range(n)], gradients


def _shared_statistics(model: nn.Module, own: set[str]) -> dict[str, tuple[float, Tensor]]:
    """Returns the running statistics that a pass will change and that members share: full name -> the layer's momentum, the value.

    Args:
        own: full names of the running statistics that members have of their own.
    """
    shared = {name: value for name, value in running_statistics(model).items() if name not in own}
    found: dict[str, tuple[float, Tensor]] = {}
    for prefix, layer in normalization_layers(model).items():
        names = [f"{prefix}.{key}" if prefix else key for key, _ in layer.named_buffers(recurse=False)]
        names = [name for name in names if name in shared] if layer.training else []
        if names and not (isinstance(layer, _BatchNorm) and layer.momentum is not None):
            raise RuntimeError(
                f"this model can't train several members in one pass (they share the running statistics of {prefix}, which isn't a "
                "BatchNorm of torch with a momentum): train them one after the other."
            )
        found.update((name, (layer.momentum, shared[name])) for name in names)
    return found


def _in_turn(momentum: float, before: Tensor, after: Tensor) -> Tensor:
    """Returns a running statistic as it is when members update it in turn.

    Args:
        momentum: the layer's: a statistic r becomes (1 - momentum) r + momentum s.
        before: the statistic before all updates.
        after: ``[members, ...]``, the statistic after one update of ``before`` by each member; or a count of updates.
    """
    if not before.is_floating_point():
        return before + len(after)
    value = before
    for own in after:
        value = (1 - momentum) * value + (own - (1 - momentum) * before)
    return value
