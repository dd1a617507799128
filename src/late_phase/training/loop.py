"""One run, from its config to ``metrics.json``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from late_phase import tasks
from late_phase.config import choices
from late_phase.config.choices import options
from late_phase.config.identity import identity
from late_phase.config.training import TrainConfig
from late_phase.methods.interface import due
from late_phase.runs.directory import RunDirectory
from late_phase.runs.loggers import Logger
from late_phase.runs.provenance import code_version
from late_phase.support.devices import choose_device, random_state, set_random_state, torch_settings
from late_phase.support.errors import UserError
from late_phase.training.ending import evaluate, export
from late_phase.training.interruption import Interruption
from late_phase.training.progress import Progress, report
from late_phase.training.setup import Setup, build
from late_phase.training.state import EpochSums, NonFiniteLoss, State
from late_phase.training.stopping import EarlyStopping


def run(config: TrainConfig, directory: Path) -> dict[str, Any]:
    """Trains and evaluates a run, and returns the content of ``metrics.json``.

    Training resumes from the directory's checkpoint if there is one. A finished run is not repeated; its metrics are returned.

    Raises:
        UserError: the user can correct the error. It is raised before any training, unless the loss or a metric isn't finite.
        SystemExit: SIGTERM or SIGINT has come, and a checkpoint was written. The same call resumes from there.
    """
    device, version = choose_device(config.runtime.device), code_version()
    files = RunDirectory(directory)
    with files.locked(), Interruption() as interruption, torch_settings(device, config.runtime.threads, config.seed):
        files.refuse_other_config(config)
        if (record := files.read_metrics()) is not None:
            print(f"{directory} is finished already; nothing to do.")
        else:
            setup = build(config, device)
            with choices.build("logger", config.logger.name, directory, identity(config), **options(config.logger)) as logger:
                files.write_config(config)
                seconds = train(setup, files, logger, interruption)
                export(setup, files)
                record = evaluate(setup, files, seconds, version)
                logger.finish(record["metrics"])
    report(record, directory, tasks.kind_of(config.dataset).in_words)
    return record


def train(setup: Setup, files: RunDirectory, logger: Logger, interruption: Interruption) -> float:
    """Runs the training loop, and returns its duration in seconds, including the time before an interruption."""
    config, late, batches = setup.config, setup.trained.late, setup.batches
    methods, objective = setup.methods.values(), setup.task.objective
    schedule = choices.build("schedule", config.schedule.name, **options(config.schedule))
    forward = torch.compile(late.model) if config.compute.compile else late.model
    stopping = EarlyStopping(config, setup.task.validated())
    state = resume(setup, files, stopping)
    clock = time.monotonic() - state.seconds
    if state.history:
        files.write_history(state.history)  # the run may have been killed after the checkpoint and before this file

    finite = refusing_non_finite(state, len(batches), files)
    with Progress(config, len(batches), state, setup.task) as progress, interruption.deferred(), finite:
        while state.epoch < config.epochs and not stopping.ends(state.epoch):
            for method in methods:
                method.before_epoch(setup.trained, state.epoch)
            for batch, (inputs, targets) in enumerate(batches.epoch(state.epoch, state.sums.batches), state.sums.batches):
                factor = schedule(state.epoch + batch / len(batches))
                for group in late.param_groups:
                    group["lr"] = group["base_lr"] * factor
                with setup.trained.autocast():
                    outputs, targets = batches.predict(forward, inputs, targets)
                    loss = objective.loss(outputs, targets)
                loss.backward()
                if config.max_grad_norm is not None:
                    nn.utils.clip_grad_norm_(late.model.parameters(), config.max_grad_norm)
                late.step()
                state.sums.add(loss, objective.correct(outputs, targets), len(targets))
                progress.step(state)
                if interruption.requested:
                    state.seconds = time.monotonic() - clock
                    save(setup, files, state, stopping)
                    interruption.exit()
            state.sums.synchronize()
            for method in methods:
                method.after_epoch(setup.trained, state.epoch)
            state.seconds = time.monotonic() - clock
            state.history.append(history_row(setup, state))
            stopping.consider(state.history[-1], partial(weights_of, setup))
            state.epoch, state.sums = state.epoch + 1, EpochSums()
            if state.epoch == config.epochs or stopping.ends(state.epoch) or due(state.epoch, config.runtime.checkpoint_every):
                save(setup, files, state, stopping)
            files.write_history(state.history)
            logger.log(state.history[-1])
            progress.epoch(state)
    if stopping.best is not None:
        restore(setup, stopping.best["weights"])
    return state.seconds


@contextmanager
def refusing_non_finite(state: State, steps: int, files: RunDirectory) -> Iterator[None]:
    """Turns a loss that isn't finite into a ``UserError``, for the training loop in its block.

    Args:
        steps: number of steps in an epoch, for the message.
    """
    try:
        yield
    except NonFiniteLoss as error:
        raise UserError(
            f"the loss is {error.value} in epoch {state.epoch + 1}, step {error.batch + 1} of {steps} "
            f"(last good checkpoint: {files.last_checkpoint() or 'none'}): lower optimizer.lr."
        ) from error


def weights_of(setup: Setup) -> dict[str, Any]:
    """Returns the weights, the optimizer's state and the states of the methods, as references."""
    late = setup.trained.late
    of_methods = {name: method.state_dict() for name, method in setup.methods.items()}
    own = {name: state for name, state in of_methods.items() if state is not None}
    return {"model": late.model.state_dict(), "late": late.state_dict(), **own}


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
        }
    )


def resume(setup: Setup, files: RunDirectory, stopping: EarlyStopping) -> State:
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
    set_random_state(checkpoint["random"], setup.device)
    return State(checkpoint["epoch"], EpochSums(**checkpoint["tally"]), checkpoint["history"], checkpoint["seconds"])


def history_row(setup: Setup, state: State) -> dict[str, Any]:
    """Returns the row of ``history.csv`` for the epoch that has just ended, with measurements of the methods' models."""
    late, epoch = setup.trained.late, state.epoch + 1
    row: dict[str, Any] = {
        "epoch": epoch,
        "learning_rate": late.param_groups[0]["lr"],
        "members": late.K if late.spawned else 1,
        **setup.task.objective.in_training(*state.sums.means()),
    }
    for method in setup.methods.values():
        for prefix, model in method.measured(setup.trained, epoch).items():
            row |= measurements(setup, prefix, model)
    row["seconds"] = round(state.seconds, 3)
    return row


def measurements(setup: Setup, prefix: str, model: nn.Module | None) -> dict[str, float | None]:
    """Returns a model's measurements on held-out data, with ``prefix`` before their names. They are None if there is no model."""
    row: dict[str, float | None] = dict.fromkeys(setup.task.measured())
    if model is not None:
        with setup.trained.autocast():
            row |= setup.task.measure(model)
    return {f"{prefix}{name}": value for name, value in row.items()}
