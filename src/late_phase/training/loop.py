"""One run, from its config to ``metrics.json``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
from late_phase.support.console import duration
from late_phase.support.devices import torch_settings
from late_phase.support.errors import UserError
from late_phase.training.checkpoints import restore, resume, save, weights_of
from late_phase.training.computing import forward_of, in_words, refuse_tf32, timed
from late_phase.training.ending import evaluate, export
from late_phase.training.inner_steps import inner_steps
from late_phase.training.interruption import Interruption
from late_phase.training.progress import Progress, report
from late_phase.training.setup import Setup, build
from late_phase.training.state import EpochSums, NonFiniteLoss, State
from late_phase.training.stopping import EarlyStopping
from late_phase.training.world import World, divide, join_world


def run(config: TrainConfig, directory: Path) -> dict[str, Any] | None:
    """Trains and evaluates a run, and returns the content of ``metrics.json``.

    If ``torchrun`` has started several processes, they train together. Only the first one writes, evaluates and returns metrics.
    Training resumes from the directory's checkpoint if there is one. A finished run is not repeated; its metrics are returned.

    Raises:
        UserError: the user can correct the error. It is raised before any training, unless the loss or a metric isn't finite.
        SystemExit: SIGTERM or SIGINT has come, and a checkpoint was written. The same call resumes from there.
    """
    # If a process ends, torchrun sends SIGTERM to the others while they leave the world.
    with Interruption() as interruption, join_world(config.runtime.device) as world:
        return _run(config, directory, world, interruption)


def _run(config: TrainConfig, directory: Path, world: World, interruption: Interruption) -> dict[str, Any] | None:
    version, files = code_version(), RunDirectory(directory)
    with ExitStack() as stack:
        world.agree(lambda: lock(files, stack, config))
        precision = config.precision_on(world.device)
        stack.enter_context(torch_settings(world.device, config.runtime.threads, config.seed, world.rank, precision))
        record = world.agree(files.read_metrics)
        if record is not None:
            if world.first:
                print(f"{directory} is finished already; nothing to do.")
        else:
            refuse_tf32(config, world.device)
            setup = build(config, world.device)
            divide(setup.batches, setup.methods.values(), config, world)
            chosen = config.logger.name if world.first else "csv"
            own = options(config.logger) if world.first else {}
            with choices.build("logger", chosen, directory, identity(config), **own) as logger:
                if world.first:
                    files.write_config(config)
                state = train(setup, files, logger, interruption, world)
                if not world.first:
                    return None
                export(setup, files)
                record = evaluate(setup, files, state, version)
                logger.finish(record["metrics"])
    if world.first:
        report(record, directory, tasks.kind_of(config.dataset).in_words)
    return record


def lock(files: RunDirectory, stack: ExitStack, config: TrainConfig) -> None:
    """Locks the directory until the stack ends.

    Raises:
        UserError: another process holds the directory, or it has a run with another config.
    """
    stack.enter_context(files.locked())
    files.refuse_other_config(config)


def train(setup: Setup, files: RunDirectory, logger: Logger, interruption: Interruption, world: World) -> State:
    """Runs the training loop, and returns its state at the end. Its seconds include the time before an interruption."""
    config, late, batches = setup.config, setup.trained.late, setup.batches
    methods, objective = setup.methods.values(), setup.task.objective
    schedule = choices.build("schedule", config.schedule.name, **options(config.schedule))
    forward = forward_of(late.model, config, setup.device, world.size)
    compiled = forward is not late.model
    steps = partial(inner_steps, setup.trained, batches, objective, forward, config.late_phase.parallel_members)
    stopping = EarlyStopping(config, setup.task.validated())
    state = resume(setup, files, stopping, world)
    state.computes_in(config.precision_on(setup.device))
    state.start_clock()
    if state.history and world.first:
        files.write_history(state.history)  # the run may have been killed after the checkpoint and before this file

    finite = refusing_non_finite(state, len(batches), files)
    shown = config.runtime.progress and world.first
    with Progress(config, len(batches), state, setup.task, shown) as progress, interruption.deferred(), finite:
        progress.note(in_words(config, setup.device, compiled))
        while state.epoch < config.epochs and not stopping.ends(state.epoch):
            for method in methods:
                method.before_epoch(setup.trained, state.epoch)
            start = state.sums.batches
            passes = steps(state.epoch, start)
            if compiled:
                passes, compiled = timed(passes, partial(tell_of_compiling, state, progress)), False
            for batch, step in enumerate(passes, start):
                factor = schedule(state.epoch + batch / len(batches))
                for group in late.param_groups:
                    group["lr"] = group["base_lr"] * factor
                if step is None:
                    late.skip()
                    state.sums.skip()
                else:
                    if config.max_grad_norm is not None:
                        nn.utils.clip_grad_norm_(late.model.parameters(), config.max_grad_norm)
                    late.step()
                    state.sums.add(step.loss, objective.correct(step.outputs, step.targets), len(step.targets))
                for method in methods:
                    method.after_step(setup.trained, state.epoch)
                progress.step(state)
                if (step is None or step.last_of_pass) and world.stopped(interruption, late.entered):
                    state.read_clock()
                    state.sums.total(world)
                    late.gather()
                    if world.first:
                        save(setup, files, state, stopping)
                    world.wait()  # torchrun stops all processes when one of them ends
                    state.sums.keep(world)
                    interruption.exit()  # a launcher may let the run go on
            state.sums.total(world)
            late.gather()
            for method in methods:
                method.after_epoch(setup.trained, state.epoch)
            state.read_clock()
            if world.first:
                state.history.append(history_row(setup, state))
                stopping.consider(state.history[-1], partial(weights_of, setup))
            state.epoch, state.sums = state.epoch + 1, EpochSums()
            last = state.epoch == config.epochs or stopping.ends(state.epoch)
            if world.first:
                if last or due(state.epoch, config.runtime.checkpoint_every):
                    save(setup, files, state, stopping)
                files.write_history(state.history)
                logger.log(state.history[-1])
                progress.epoch(state)
    if stopping.best is not None:
        restore(setup, stopping.best["weights"])
    return state


def tell_of_compiling(state: State, progress: Progress, seconds: float) -> None:
    state.compile_seconds += seconds
    progress.note(f"compiling took {duration(seconds)}")


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


def history_row(setup: Setup, state: State) -> dict[str, Any]:
    """Returns the row of ``history.csv`` for the epoch that has just ended, with measurements of the methods' models."""
    late, epoch = setup.trained.late, state.epoch + 1
    row: dict[str, Any] = {
        "epoch": epoch,
        "learning_rate": late.param_groups[0]["lr"],
        "members": late.K if late.spawned else 1,
        **setup.task.objective.in_training(*state.sums.means()),
        "weight_norm": weight_norm(late.model),
    }
    for method in setup.methods.values():
        for prefix, model in method.measured(setup.trained, epoch).items():
            row |= measurements(setup, prefix, model)
    row["seconds"] = round(state.seconds, 3)
    return row


@torch.no_grad()
def weight_norm(model: nn.Module) -> float:
    """Returns the Euclidean norm of all parameters with two or more dimensions, as they are stored: matrices, filters, factors."""
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    return float(torch.nn.utils.get_total_norm(weights)) if weights else 0.0


def measurements(setup: Setup, prefix: str, model: nn.Module | None) -> dict[str, float | None]:
    """Returns a model's measurements on held-out data, with ``prefix`` before their names. They are None if there is no model."""
    row: dict[str, float | None] = dict.fromkeys(setup.task.measured())
    if model is not None:
        with setup.trained.autocast():
            row |= setup.task.measure(model)
    return {f"{prefix}{name}": value for name, value in row.items()}
