"""Builds the parts of a run from its config, and refuses combinations that can't work."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from late_phase import methods, tasks
from late_phase.config.check import copies
from late_phase.config.choices import options
from late_phase.config.training import TrainConfig
from late_phase.data.batches import Batches
from late_phase.methods.interface import Method, Trained
from late_phase.optimization import optimizers
from late_phase.support.devices import autocast
from late_phase.support.errors import UserError
from late_phase.support.memory import NUMBER, check_memory
from late_phase.tasks.task import Task
from late_phase.training.inner_steps import refuse_parallel


@dataclass(frozen=True)
class Setup:
    """A run's config and the parts made from it, on its device."""

    config: TrainConfig
    device: torch.device
    task: Task
    batches: Batches
    methods: dict[str, Method]
    trained: Trained


def build(config: TrainConfig, device: torch.device) -> Setup:
    """Builds all parts of a run.

    Raises:
        UserError: dataset, architecture, methods and batch size don't fit together, or the memory is too small.
    """
    task, chosen = tasks.build(config.dataset, device), methods.build(config)
    if config.patience is not None and task.validated() is None:
        raise UserError(
            f"patience={config.patience} needs a validation part to choose an epoch by: set dataset.validation above 0."
        )
    model = task.model(config.architecture, config.architecture.weights, copies(config))
    task.check(config, model)
    if device.type == "cpu":
        check_minibatch(config, chosen.values(), task.activations(config, model))
    for group, method in chosen.items():
        with refusing(group, config):
            method.parametrize(model)
            model = method.wrap(model)
    model = model.to(device)
    exceptions = [exception for method in chosen.values() for exception in method.parameter_options()]
    late = optimizers.build(config.optimizer.name, model, exceptions, **options(config.optimizer))
    for group, method in chosen.items():
        with refusing(group, config):
            late = method.optimizer(model, late)
    batches = task.batches(config)
    for method in chosen.values():
        method.check(late, len(batches))
    how = partial(autocast, device, config.precision_on(device))
    trained = Trained(late, partial(batches.epoch, config.epochs), how)
    if config.late_phase.parallel_members > 1:
        refuse_parallel(config, trained, batches, task.objective, device)
    return Setup(config, device, task, batches, chosen, trained)


@contextmanager
def refusing(method: str, config: TrainConfig) -> Iterator[None]:
    """Turns a ``ValueError`` of a method, in its block, into a ``UserError`` that names the two choices that don't fit together."""
    try:
        yield
    except ValueError as error:
        choice = f"{method}={getattr(config, method).name}" if method in methods.GROUPS else method
        raise UserError(f"{choice} with architecture={config.architecture.name}: {error}") from error


def check_minibatch(config: TrainConfig, chosen: Iterable[Method], activations: int) -> None:
    """Refuses minibatches whose activations don't fit into the memory.

    Args:
        activations: how many numbers the activations of one example are.

    Raises:
        UserError: they don't fit.
    """
    multiples = {key: number for method in chosen for key, number in method.multiples().items() if number > 1}
    needed = NUMBER * math.prod(multiples.values()) * config.batch_size * activations
    among = "".join(f" with {key}={number}" for key, number in multiples.items())
    check_memory(f"batch_size={config.batch_size}{among}", needed, "choose a smaller one.")
