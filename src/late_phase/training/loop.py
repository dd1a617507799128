"""One run: the whole way from a config to ``metrics.json``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from late_phase.support.errors import UserError
from late_phase.support.seeding import generator
from late_phase.training import loggers, schedules
from late_phase.training.config import TrainConfig, identity, options
from late_phase.training.evaluate import evaluate
from late_phase.training.export import export
from late_phase.training.loggers import Logger
from late_phase.training.progress import Progress, report
from late_phase.training.provenance import git_commit
from late_phase.training.run_directory import RunDirectory
from late_phase.training.settings import Interruption, choose_device, random_state, set_random_state, torch_settings
from late_phase.training.setup import Setup, build
from late_phase.training.tally import NonFiniteLoss, State, Tally


def run(config: TrainConfig, directory: Path) -> dict[str, Any]:
    """Trains, from the directory's checkpoint on if there is one, evaluates, and returns what it wrote to ``metrics.json``.

    A finished run is not repeated; its metrics are returned.

    Raises:
        UserError: anything that the user can mend; before any training, but for a loss that isn't finite.
        SystemExit: after SIGTERM or SIGINT, with a checkpoint written. The same call goes on from there.
    """
    device, commit = choose_device(config.runtime.device), git_commit()
    files = RunDirectory(directory)
    with files.locked(), Interruption() as interruption, torch_settings(device, config.runtime.threads, config.seed):
        files.refuse_other_config(config)
        if (record := files.read_metrics()) is not None:
            print(f"{directory} is finished already; nothing to do.")
        else:
            setup = build(config, device)
            with loggers.build(config.logger.name, directory, identity(config), **options(config.logger)) as logger:
                files.write_config(config)
                seconds = train(setup, files, logger, interruption)
                export(setup, files)
                record = evaluate(setup, files, seconds, commit)
                logger.finish(record["metrics"])
    report(record, directory)
    return record


def train(setup: Setup, files: RunDirectory, logger: Logger, interruption: Interruption) -> float:
    """The training loop; returns the seconds that it took, those before an interruption included."""
    config, late, batches = setup.config, setup.late, setup.batches
    schedule = schedules.build(config.schedule.name, **options(config.schedule))
    forward = torch.compile(late.model) if config.compute.compile else late.model
    state = resume(setup, files)
    clock = time.monotonic() - state.seconds
    if state.history:
        files.write_history(state.history)  # a kill may have come between the checkpoint and it

    with Progress(config, len(batches), state) as progress, interruption.deferred():
        while state.epoch < config.epochs:
            if state.epoch == config.late_phase.T0 and not late.spawned:
                late.spawn(generator(config.seed, "members"))
            try:
                for batch, (inputs, labels) in enumerate(batches.epoch(state.epoch, state.tally.batches), state.tally.batches):
                    factor = schedule(state.epoch + batch / len(batches))
                    for group in late.param_groups:
                        group["lr"] = group["base_lr"] * factor
                    with setup.autocast():
                        logits = batches.logits(forward, inputs)
                        labels = labels.repeat(len(logits) // len(labels))  # of the members, where the model has several
                        loss = F.cross_entropy(logits, labels)
                    loss.backward()
                    if config.max_grad_norm is not None:
                        nn.utils.clip_grad_norm_(late.model.parameters(), config.max_grad_norm)
                    late.step()
                    state.tally.add(loss, logits, labels)
                    progress.step(state)
                    if interruption.requested:
                        state.seconds = time.monotonic() - clock
                        save(setup, files, state)
                        interruption.exit()
                state.tally.synchronize()
            except NonFiniteLoss as error:
                raise UserError(
                    f"the loss is {error.value} in epoch {state.epoch + 1}, step {error.batch + 1} of {len(batches)} "
                    f"(last good checkpoint: {files.last_checkpoint() or 'none'}): lower optimizer.lr."
                ) from error
            if setup.averaging is not None and state.epoch >= config.averaging.start:
                setup.averaging.update(late.weights())
            state.seconds = time.monotonic() - clock
            state.history.append(history_row(setup, state))
            state.epoch, state.tally = state.epoch + 1, Tally()
            if state.epoch == config.epochs or due(state.epoch, config.runtime.checkpoint_every):
                save(setup, files, state)
            files.write_history(state.history)
            logger.log(state.history[-1])
            progress.epoch(state)
    return state.seconds


def due(epoch: int, every: int) -> bool:
    """Whether something done ``every`` so many epochs, or never if 0, is to be done after ``epoch`` epochs."""
    return every > 0 and epoch % every == 0


def save(setup: Setup, files: RunDirectory, state: State) -> None:
    files.save_checkpoint(
        {
            "model": setup.late.model.state_dict(),
            "late": setup.late.state_dict(),
            "averaging": None if setup.averaging is None else setup.averaging.state_dict(),
            "batches": setup.batches.state_dict(),
            "random": random_state(setup.device),
            "epoch": state.epoch,
            "tally": state.tally.state_dict(),
            "history": state.history,
            "seconds": state.seconds,
        }
    )


def resume(setup: Setup, files: RunDirectory) -> State:
    """The state in the latest good checkpoint, with model and optimizer set to it; that of a beginning if there is none."""
    checkpoint = files.load_checkpoint()
    if checkpoint is None:
        return State()
    setup.batches.load_state_dict(checkpoint["batches"])
    setup.late.model.load_state_dict(checkpoint["model"])
    setup.late.load_state_dict(checkpoint["late"])
    if setup.averaging is not None:
        setup.averaging.load_state_dict(checkpoint["averaging"], setup.device)
    set_random_state(checkpoint["random"], setup.device)
    return State(checkpoint["epoch"], Tally(**checkpoint["tally"]), checkpoint["history"], checkpoint["seconds"])


def history_row(setup: Setup, state: State) -> dict[str, Any]:
    """A row of ``history.csv``, for the epoch that has just ended; what is held out is measured with the single model."""
    config, epoch = setup.config, state.epoch + 1
    row: dict[str, Any] = {
        "epoch": epoch,
        "learning_rate": setup.late.param_groups[0]["lr"],
        "members": setup.late.K if setup.late.spawned else 1,
        "train_loss_nats": state.tally.loss / state.tally.examples,
        "train_accuracy": state.tally.correct / state.tally.examples,
    }
    last = epoch == config.epochs
    measured = last or due(epoch, config.runtime.evaluate_every)
    row |= measurements(setup, "", setup.single_model() if measured else None)
    if setup.averaging is not None:
        every = config.runtime.evaluate_swa_every
        measured = setup.averaging.count > 0 and (due(epoch, every) or (last and every > 0))
        row |= measurements(setup, "swa_", setup.swa_model() if measured else None)
    row["seconds"] = round(state.seconds, 3)
    return row


def measurements(setup: Setup, prefix: str, model: nn.Module | None) -> dict[str, float | None]:
    """What is measured of a model on data held out, named with ``prefix``; None where there is no model to measure."""
    row: dict[str, float | None] = dict.fromkeys(setup.task.measured())
    if model is not None:
        with setup.autocast():
            row |= setup.task.measure(model)
    return {f"{prefix}{name}": value for name, value in row.items()}
