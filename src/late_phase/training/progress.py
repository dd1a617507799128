"""What a run shows: a progress bar on a terminal, a line now and then in a log file, and its results at the end."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from late_phase.config.training import TrainConfig
from late_phase.runs.directory import RunDirectory
from late_phase.training.state import State

LINES = 20
"""How many lines a run leaves in a log file, about."""


class Progress:
    """Loss, accuracy and epochs left while training; shows nothing with ``runtime.progress=false``."""

    def __init__(self, config: TrainConfig, batches: int, state: State) -> None:
        self._epochs = config.epochs
        self._lines = config.runtime.progress and not sys.stderr.isatty()
        self._bar = tqdm(
            total=config.epochs * batches,
            initial=state.epoch * batches + state.tally.batches,
            unit=" batches",
            disable=not config.runtime.progress or self._lines,
            dynamic_ncols=True,
            leave=False,
        )
        self._shown = 0
        self._bar.set_description(f"{self._epochs - state.epoch} epochs left", refresh=False)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._bar.close()

    def step(self, state: State) -> None:
        """After each minibatch. Loss and accuracy are of the epoch so far, as far as the device has told."""
        self._bar.update()
        if state.tally.examples not in (0, self._shown):
            self._shown = state.tally.examples
            loss, accuracy = state.tally.loss / self._shown, state.tally.correct / self._shown
            self._bar.set_postfix(loss=f"{loss:z.3f}", accuracy=f"{accuracy:z.1%}", refresh=False)

    def epoch(self, state: State) -> None:
        """After each epoch."""
        row = state.history[-1]
        shown = {"loss": f"{row['train_loss_nats']:z.3f}", "accuracy": f"{row['train_accuracy']:z.1%}"}
        if row.get("test_accuracy") is not None:
            shown["test"] = f"{row['test_accuracy']:z.1%}"
        if row.get("test_bpc") is not None:
            shown["test"] = f"{row['test_bpc']:z.3f} bits per character"
        self._bar.set_description(f"{self._epochs - state.epoch} epochs left", refresh=False)
        self._bar.set_postfix(shown, refresh=False)
        if self._lines and state.epoch % max(1, self._epochs // LINES) == 0:
            print(f"epoch {state.epoch}/{self._epochs}: " + ", ".join(f"{k} {v}" for k, v in shown.items()), flush=True)


def report(record: dict[str, Any], directory: Path) -> None:
    """Prints the results of a finished run, and where there is a sample of text, it as well."""
    for name, metrics in record["metrics"].items():
        print(f"{name:>12}: {results_of_text(metrics) if 'test_bpc' in metrics else results_of_images(metrics)}")
    sample = RunDirectory(directory).sample
    if sample.exists():
        print(f"\nwhat the single model makes up:\n\n{sample.read_text(encoding='utf-8')}")
    print(f"in {directory}", flush=True)


def results_of_images(metrics: dict[str, float]) -> str:
    training = f", training loss {metrics['train_loss']:z.4f} nats" if "train_loss" in metrics else ""
    accuracy, ece = (f"{metrics[name]:z.2%}" for name in ("test_accuracy", "test_ece"))
    return f"test accuracy {accuracy}, NLL {metrics['test_nll']:z.4f} nats, ECE {ece}{training}"


def results_of_text(metrics: dict[str, float]) -> str:
    parts = (f"{part} {metrics[f'{part}_bpc']:z.4f}" for part in ("train", "validation", "test"))
    return f"{', '.join(parts)} bits per character"
