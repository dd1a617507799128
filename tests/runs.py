"""A tiny run, what to read of it, and how to stop it."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import pytest

from late_phase import LatePhase
from late_phase.config.training import TrainConfig
from late_phase.training.loop import run

# 8 minibatches an epoch and 3 members: epochs end inside of an iteration.
TINY = (
    "epochs=4",
    "batch_size=8",
    "dataset.subset=60",
    "dataset.test_subset=40",
    "dataset.validation=20",
    "late_phase.K=3",
    "late_phase.T0=1",
    "optimizer.lr=0.02",
    "runtime.progress=false",
)


def history(directory: Path) -> list[dict[str, str]]:
    with (directory / "history.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def files_in(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def assert_same_results(one: Path, other: Path) -> None:
    """The same weights, predictions and samples, byte for byte, and the same metrics and history."""
    names = {name for name in files_in(one) if name.endswith((".safetensors", "sample.txt"))}
    assert names == {name for name in files_in(other) if name.endswith((".safetensors", "sample.txt"))}
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert json.loads((one / "metrics.json").read_text())["metrics"] == json.loads((other / "metrics.json").read_text())["metrics"]
    assert history(one) == history(other)


def run_until(steps: int, config: TrainConfig, directory: Path) -> None:
    """A run that is stopped after so many steps, with a checkpoint written."""
    with pytest.MonkeyPatch.context() as patch:
        StopAfter(patch, steps)
        with pytest.raises(SystemExit):
            run(config, directory)


class StopAfter:
    """Raises a signal in this very process after the nth step, as a scheduler would send it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: int, number: int = signal.SIGTERM) -> None:
        original, left = LatePhase.step, steps

        def step(late: LatePhase) -> None:
            nonlocal left
            original(late)
            left -= 1
            if left == 0:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(LatePhase, "step", step)
