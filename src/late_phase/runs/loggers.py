"""Loggers, which run in addition to ``history.csv``: that file is always written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from omegaconf import MISSING

from late_phase.config.choices import register
from late_phase.config.training import Chosen, TrainConfig
from late_phase.support.errors import UserError, first_line


@dataclass
class WandbConfig(Chosen):
    project: str = MISSING
    entity: str | None = None
    mode: str = MISSING

    def check(self, config: TrainConfig) -> None:
        if self.mode not in ("offline", "online"):
            raise UserError(f"logger.mode={self.mode} is unknown: choose offline or online.")


class Logger:
    """A logger that writes nothing besides ``history.csv``, and the base class of the others. As a context manager it ends the log.

    Args:
        directory: the run directory.
        config: the part of the run's config to show.
    """

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        pass

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        pass

    def log(self, row: dict[str, Any]) -> None:
        """Logs a row of the history, once per epoch."""

    def finish(self, metrics: dict[str, dict[str, float]]) -> None:
        """Logs the metrics of the finished run."""


class WandbLogger(Logger):
    """A logger for Weights & Biases. Mode ``offline`` needs neither network nor account, and ``wandb sync`` uploads later."""

    def __init__(self, directory: Path, config: dict[str, Any], project: str, entity: str | None, mode: str) -> None:
        try:
            from wandb import Error, Settings, init  # takes seconds, so it is imported only when used
        except ImportError as error:
            cure = "run `pip install wandb` or choose logger=csv"
            raise UserError(f"logger=wandb needs the package wandb ({first_line(error)}): {cure}.") from error
        seed = directory.resolve()
        group = f"{seed.parent.parent.name}/{seed.parent.name}"
        try:
            self._run = init(
                dir=directory,
                config=config,
                project=project,
                entity=entity,
                mode=mode,
                group=group,
                name=f"{group}/{seed.name}",
                settings=Settings(silent=True, init_timeout=30),
            )
        except Error as error:
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
