"""The forward and backward passes of an epoch: of one minibatch at a time, or of several members' minibatches at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from late_phase.config.training import TrainConfig
from late_phase.data.batches import Batches
from late_phase.layers.synchronized_batchnorm import SynchronizedBatchNorm
from late_phase.method import LatePhase
from late_phase.methods.interface import Trained
from late_phase.support.errors import UserError
from late_phase.tasks.objective import Objective

Minibatch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class InnerStep:
    """A minibatch whose gradients are in the model.

    Attributes:
        loss: the mean loss, without gradient.
        outputs, targets: the model's outputs, without gradient, and the target of each row.
        last_of_pass: whether the pass has no further minibatches, whose gradients a checkpoint would lose.
    """

    loss: Tensor
    outputs: Tensor
    targets: Tensor
    last_of_pass: bool


def inner_steps(
    trained: Trained,
    batches: Batches,
    objective: Objective,
    forward: Callable[..., Any],
    parallel_members: int,
    epoch: int,
    start: int,
) -> Iterator[InnerStep | None]:
    """Yields the minibatches of an epoch, from ``start`` on. Call ``late.step()`` after each.

    None stands for a minibatch that another process trains. Call ``late.skip()`` for it.

    Args:
        forward: the model, possibly compiled.
        parallel_members: how many members a pass has at most.
    """
    late, loss_of, batch = trained.late, loss_function(trained, batches, objective), start
    for group in of_one_pass(batches.epoch(epoch, start), late, parallel_members):
        if group == [None]:
            passed = []
            yield None
        elif len(group) > 1:
            passed = late.parallel(loss_of, group)
        else:
            passed = [loss_of(forward, *group[0])]
            # The processes step along the mean of their gradients, and their parts of a minibatch may differ in size.
            weight = 1.0
            if late.divides_minibatches:
                weight = late.processes * len(group[0][1]) / (batches.examples(batch) * batches.targets_per_example)
            (passed[0][0] * weight if weight != 1 else passed[0][0]).backward()
        batch += len(group)
        for k, (loss, outputs, targets) in enumerate(passed):
            yield InnerStep(loss.detach(), outputs.detach(), targets, k == len(group) - 1)


def loss_function(trained: Trained, batches: Batches, objective: Objective) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Returns a function from a model and a minibatch to the mean loss, the outputs and the target of each row."""

    def loss(model: Callable[..., Any], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with trained.autocast(), SynchronizedBatchNorm() if trained.late.divides_minibatches else nullcontext():
            outputs, targets = batches.predict(model, inputs, targets)
            return objective.loss(outputs, targets), outputs, targets

    return loss


def of_one_pass(minibatches: Iterable[Minibatch | None], late: LatePhase, most: int) -> Iterator[list[Minibatch] | list[None]]:
    """Groups minibatches for passes of at most ``most`` members.

    A pass holds minibatches of one shape and members of one iteration, and begins at a multiple of ``most``. So a resumed run has
    the same passes. None, a minibatch of another process, stands alone.
    """
    group: list[Minibatch] = []
    for minibatch in minibatches:
        if minibatch is None:
            yield [None]
            continue
        if group and minibatch[0].shape != group[0][0].shape:
            yield group
            group = []
        group.append(minibatch)
        entered = late.entered
        if entered is None or len(group) == min(most - entered % most, late.K - entered):
            yield group
            group = []
    if group:
        yield group


def refuse_parallel(config: TrainConfig, trained: Trained, batches: Batches, objective: Objective, device: torch.device) -> None:
    """Tries a pass of two members on a copy of the model, so that a model that can't do it is refused before training.

    Raises:
        UserError: the model or the data don't allow ``late_phase.parallel_members``.
    """
    number = f"late_phase.parallel_members={config.late_phase.parallel_members}"
    if not batches.independent:
        raise UserError(
            f"{number} needs minibatches that don't depend on each other: set dataset.carry_state=false, or choose "
            "late_phase.parallel_members=1."
        )
    late, model = trained.late, copy.deepcopy(trained.late.model)
    trial = LatePhase(model, torch.optim.SGD(model.parameters(), lr=0.0), late.phi, K=2)
    trial.spawn()
    minibatch = next(batches.epoch(0))
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            trial.parallel(loss_function(trained, batches, objective), [minibatch] * 2)
    except RuntimeError as error:
        raise UserError(f"{number} with architecture={config.architecture.name}: {error}") from error
