"""Several members' gradients in one pass.

θ is constant within an iteration of Algorithm 1, so its inner steps don't depend on each other. Several of them can share one
forward and one backward pass, in which φ and the minibatches are stacked. ``LatePhase.parallel`` offers this to users.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
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
    if any(parameter.grad is not None for parameter in members.phi.model.parameters()):
        raise RuntimeError("parallel() found gradients of another pass: call step() or zero_grad() before it.")
    if hooked := [name for name, parameter in members.phi.parameters.items() if parameter._backward_hooks]:
        raise RuntimeError(f"parallel() doesn't call the hook of the late-phase weight {hooked[0]}: remove it, or use step().")
    first, (returned, of_phi, of_theta) = members.entered, backward(members, loss, minibatches)

    def in_turn() -> Iterator[tuple[Any, ...]]:
        for k, own in enumerate(returned):
            refuse_other_member(k)
            for name, gradient in of_phi.items():
                members.phi.parameters[name].grad = gradient[k]
            for parameter, gradient in of_theta.items() if k == 0 else ():
                parameter.grad = gradient
            yield own
        refuse_other_member(len(returned))

    def refuse_other_member(k: int) -> None:
        if members.entered != (first + k) % K:
            raise RuntimeError("step() must be called once for each minibatch of parallel().")

    return in_turn()


def backward(
    members: Members, loss: Callable[..., Any], minibatches: Sequence[Sequence[Tensor]]
) -> tuple[list[Any], dict[str, Tensor], dict[nn.Parameter, Tensor]]:
    """Runs the passes of the member in the live model and of those after it, one for each of ``minibatches``.

    The running statistics become those after the passes.

    Args:
        loss: see :meth:`late_phase.LatePhase.parallel`.

    Returns:
        what ``loss`` has returned for each member; the gradients of φ by full name, ``[minibatches, ...]``; and those of θ, summed
        over the members.

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
    stacked = {name: before.expand(n, *before.shape).clone() for name, (_, _, before) in shared.items()}
    others = {name: value.clone() for name, value in model.named_buffers() if name not in own and name not in shared}
    theta = {name: parameter for name, parameter in model.named_parameters() if name not in phi}
    versions = {name: value._version for name, value in others.items()}

    def of_one(own: dict[str, Tensor], *minibatch: Tensor) -> Any:
        state = theta | others | own
        returned = loss(lambda *inputs, **keywords: functional_call(model, state, inputs, keywords), *minibatch)
        return returned if isinstance(returned, tuple) else (returned,)

    inputs = [torch.stack(tensors) for tensors in zip(*minibatches, strict=True)]
    with counted({layer for layer, _, _ in shared.values()}) as calls:
        try:
            returned = vmap(of_one, randomness="different")(phi | own | stacked, *inputs)
        except RuntimeError as error:
            raise refusal(str(error).strip().partition("\n")[0]) from error
    if returned[0].dim() != 1:
        raise refusal(f"the loss of a minibatch has the shape {list(returned[0].shape[1:])} and must be one number")
    if changed := [name for name, value in others.items() if value._version != versions[name]]:
        raise refusal(f"it changes the buffer {changed[0]}, which members share")
    if twice := [name for name, (layer, _, _) in shared.items() if calls[layer] > 1]:
        raise refusal(f"members share the running statistic {twice[0]}, which a pass updates several times")
    returned[0].sum().backward()
    of_phi = {name: value.grad for name, value in phi.items() if value.grad is not None}
    of_theta = {parameter: parameter.grad for parameter in theta.values() if parameter.grad is not None}
    for parameter in of_theta:
        parameter.grad = None
    if not of_phi:
        raise refusal("the loss doesn't depend on late-phase weights")

    with torch.no_grad():
        for name, value in own.items():
            rows[name].copy_(value)
        for name, (layer, momentum, before) in shared.items():
            if calls[layer]:
                before.copy_(_in_turn(momentum, before, stacked[name]))
    members.load(first)
    return [tuple(part[k] for part in returned) for k in range(n)], of_phi, of_theta


def refusal(reason: str) -> RuntimeError:
    return RuntimeError(f"this model can't train several members in one pass ({reason}): train them one after the other.")


@contextmanager
def counted(layers: Iterable[nn.Module]) -> Iterator[Counter[nn.Module]]:
    """Counts how often each layer is called during a block."""
    calls: Counter[nn.Module] = Counter()
    hooks = [layer.register_forward_pre_hook(lambda layer, _: calls.update([layer])) for layer in layers]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _shared_statistics(model: nn.Module, own: set[str]) -> dict[str, tuple[nn.Module, float, Tensor]]:
    """Returns the running statistics that a pass may change and that members share: full name -> layer, its momentum, value.

    Args:
        own: full names of the running statistics that members have of their own.
    """
    shared = {name: value for name, value in running_statistics(model).items() if name not in own}
    found: dict[str, tuple[nn.Module, float, Tensor]] = {}
    for prefix, layer in normalization_layers(model).items():
        names = [f"{prefix}.{key}" if prefix else key for key, _ in layer.named_buffers(recurse=False)]
        names = [name for name in names if name in shared] if layer.training else []
        if names and not (isinstance(layer, _BatchNorm) and layer.momentum is not None):
            raise refusal(f"members share the running statistics of {prefix}, which isn't a BatchNorm of torch with a momentum")
        found.update((name, (layer, layer.momentum, shared[name])) for name in names)
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
