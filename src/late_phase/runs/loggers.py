"""Loggers besides ``history.csv``, which is always written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from omegaconf import MISSING

from late_phase.config.choices import Chosen, register
from late_phase.support.errors import UserError


@dataclass
class WandbConfig(Chosen):
    project: str = MISSING
    entity: str | None = None
    mode: str = MISSING


class Logger:
    """Nothing besides ``history.csv``; what other loggers override. Leaving it, as a context manager, ends the log.

    Args:
        directory: of the run.
        config: what is to be shown of the run's config.
    """

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        pass

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        pass

    def log(self, row: dict[str, Any]) -> None:
        """A row of the history, once per epoch."""

    def finish(self, metrics: dict[str, dict[str, float]]) -> None:
        """The metrics of the finished run."""


class WandbLogger(Logger):
    """Weights & Biases; in mode ``offline`` it needs neither a network nor an account, and ``wandb sync`` uploads later."""

    def __init__(self, directory: Path, config: dict[str, Any], project: str, entity: str | None, mode: str) -> None:
        if mode not in ("offline", "online"):
            raise UserError(f"logger.mode={mode} is unknown: choose offline or online.")
        import wandb  # takes seconds, so only who wants it waits

        seed = directory.resolve()
        group = f"{seed.parent.parent.name}/{seed.parent.name}"
        try:
            self._run = wandb.init(
                dir=directory,
                config=config,
                project=project,
                entity=entity,
                mode=mode,
                group=group,
                name=f"{group}/{seed.name}",
                settings=wandb.Settings(silent=True, init_timeout=30),
            )
        except wandb.Error as error:
            raise UserError(f"logger=wandb could not start ({error}): log in or choose logger.mode=offline.") from error

    def log(self, row: dict[str, Any]) -> None:
        self._run.log({key: value for key, value in row.items() if value is not None}, step=row["epoch"])

    def finish(self, metrics: dict[str, dict[str, float]]) -> None:
        for name, values in metrics.items():
            self._run.summary.update({f"{name}/{key}": value for key, value in values.items()})

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._run.finish(exit_code=0 if kind is None else 1)


register("logger", "csv", Chosen, Logger)
register("logger", "wandb", WandbConfig, WandbLogger)
