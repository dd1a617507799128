"""What a run keeps of itself: the weights and states of all its parts, in checkpoints and for its best epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from late_phase.runs.directory import RunDirectory
from late_phase.support.devices import random_state, set_random_state
from late_phase.support.errors import UserError
from late_phase.training.setup import Setup
from late_phase.training.state import EpochSums, State
from late_phase.training.stopping import EarlyStopping
from late_phase.training.world import World


def weights_of(setup: Setup) -> dict[str, Any]:
    """Returns the weights, the optimizer's state and the states of the methods, as references."""
    late = setup.trained.late
    of_methods = {name: method.state_dict() for name, method in setup.methods.items()}
    own = {name: state for name, state in of_methods.items() if state is not None}
    return {"model": late.model.state_dict(), "late": late.state_dict(), **own}


def kept_bytes(setup: Setup) -> int:
    """Returns the bytes of the tensors that training holds from one minibatch to the next.

    These are the weights, their gradients, and the states of the optimizer and the methods, such as members and averages. In the
    late phase there are also the sums of the base weights' gradients. The copy of all this for early stopping is left out.
    """
    late, state = setup.trained.late, weights_of(setup)
    del state["late"]["theta_gradients"]  # which there are within an iteration only; counted below
    states = {tensor.data_ptr(): tensor for tensor in tensors_in(state)}  # the optimizer holds one member's state
    gradients = {name: parameter for name, parameter in late.model.named_parameters() if parameter.requires_grad}
    summed = late.spawned and late.K > 1 and late.gamma_theta > 0
    sums = [parameter for name, parameter in gradients.items() if name not in late.phi] if summed else []
    return sum(tensor.nbytes for tensor in [*states.values(), *gradients.values(), *sums])


def tensors_in(state: Any) -> Iterator[Tensor]:
    """Yields the tensors in nested dictionaries, lists and tuples."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from tensors_in(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from tensors_in(value)


def restore(setup: Setup, weights: dict[str, Any]) -> None:
    """Restores what :func:`weights_of` returned."""
    late = setup.trained.late
    late.model.load_state_dict(weights["model"])
    late.load_state_dict(weights["late"])
    for name, method in setup.methods.items():
        if weights.get(name) is not None:
            method.load_state_dict(weights[name], setup.device)


def save(setup: Setup, files: RunDirectory, state: State, stopping: EarlyStopping) -> None:
    files.save_checkpoint(
        {
            **weights_of(setup),
            "batches": setup.batches.state_dict(),
            "stopping": stopping.state_dict(),
            "random": random_state(setup.device),
            "epoch": state.epoch,
            "tally": state.sums.state_dict(),
            "history": state.history,
            "seconds": state.seconds,
            "cpu_seconds": state.cpu_seconds,
            "compile_seconds": state.compile_seconds,
            "precisions": state.precisions,
        }
    )


def resume(setup: Setup, files: RunDirectory, stopping: EarlyStopping, world: World) -> State:
    """Restores all parts of the run from the latest good checkpoint, and returns its state, or a new one without it.

    Raises:
        UserError: the checkpoint lacks the state of a method, or belongs to another text.
    """
    checkpoint = files.load_checkpoint()
    if checkpoint is None:
        return State()
    setup.batches.load_state_dict(checkpoint["batches"])
    stopping.load_state_dict(checkpoint.get("stopping"))  # the oldest checkpoints lack it
    restore(setup, checkpoint)
    for name, method in setup.methods.items():
        if checkpoint.get(name) is None and method.state_dict() is not None:  # the method would silently start again
            raise UserError(f"{files.path} has a checkpoint without the state of {name}: remove the directory, and start again.")
    sums = EpochSums(**checkpoint["tally"])
    sums.keep(world)
    if world.first:  # dropout differs among processes
        set_random_state(checkpoint["random"], setup.device)
    return State(
        checkpoint["epoch"],
        sums,
        checkpoint["history"],
        checkpoint["seconds"],
        checkpoint.get("cpu_seconds", math.nan),  # older checkpoints lack this and the following
        checkpoint.get("compile_seconds", 0.0),
        checkpoint.get("precisions", ["unknown"]),
    )
