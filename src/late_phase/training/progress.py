"""Shows a run's progress, as a bar on a terminal or as occasional lines in a log file, and its results at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from late_phase.config.training import TrainConfig
from late_phase.runs.directory import RunDirectory
from late_phase.tasks.task import Task
from late_phase.training.state import State

LINES = 20
"""About how many lines a run writes to a log file."""


class Progress:
    """Shows the task's measures of training and the epochs left, or nothing unless ``shown``."""

    def __init__(self, config: TrainConfig, batches: int, state: State, task: Task, shown: bool) -> None:
        self._task = task
        self._epochs = config.epochs
        self._noted = shown
        self._lines = shown and not sys.stderr.isatty()
        self._bar = tqdm(
            total=config.epochs * batches,
            initial=state.epoch * batches + state.sums.batches,
            unit=" batches",
            disable=not shown or self._lines,
            dynamic_ncols=True,
            leave=False,
        )
        self._shown = 0
        self._bar.set_description(f"{self._epochs - state.epoch} epochs left", refresh=False)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._bar.close()

    def note(self, text: str) -> None:
        """Shows a line."""
        if self._noted:
            self._bar.write(text)

    def step(self, state: State) -> None:
        """Updates the display after each minibatch. It covers the minibatches that the sums include so far."""
        self._bar.update()
        if state.sums.examples not in (0, self._shown):
            self._shown = state.sums.examples
            objective = self._task.objective
            self._bar.set_postfix(objective.in_words(objective.in_training(*state.sums.means())), refresh=False)

    def epoch(self, state: State) -> None:
        """Updates the display after each epoch."""
        row = state.history[-1]
        shown = self._task.objective.in_words(row)
        if (headline := self._task.headline(row)) is not None:
            shown["test"] = headline
        self._bar.set_description(f"{self._epochs - state.epoch} epochs left", refresh=False)
        self._bar.set_postfix(shown, refresh=False)
        if self._lines and state.epoch % max(1, self._epochs // LINES) == 0:
            print(f"epoch {state.epoch}/{self._epochs}: " + ", ".join(f"{k} {v}" for k, v in shown.items()), flush=True)


def report(record: dict[str, Any], directory: Path, in_words: Callable[[Mapping[str, float]], str]) -> None:
    """Prints a finished run's results: each predictor's metrics, put into words by ``in_words``, and a sample of text if any."""
    for name, metrics in record["metrics"].items():
        print(f"{name:>12}: {in_words(metrics)}")
    sample = RunDirectory(directory).sample
    if sample.exists():
        print(f"\nwhat the single model makes up:\n\n{sample.read_text(encoding='utf-8')}")
    print(f"in {directory}", flush=True)
