"""The end of a run: exports the weights and writes the results."""

from __future__ import annotations

import math
from typing import Any

from late_phase.methods.interface import Method
from late_phase.runs.directory import RunDirectory
from late_phase.runs.models import models_of_run
from late_phase.runs.provenance import record_of
from late_phase.support.errors import UserError
from late_phase.support.files import write_json, write_text
from late_phase.training.checkpoints import kept_bytes
from late_phase.training.setup import Setup
from late_phase.training.state import State


def export(setup: Setup, files: RunDirectory) -> None:
    """Writes the trained weights in the files that :func:`late_phase.runs.models.models_of_run` reads."""
    for method in Method.all:  # an earlier run in this directory may have used other methods
        for path in method.files(files.path):
            path.unlink(missing_ok=True)
    for method in setup.methods.values():
        method.export(setup.trained, files.path, setup.task.encoding.to_json())


def evaluate(setup: Setup, files: RunDirectory, state: State, version: dict[str, Any]) -> dict[str, Any]:
    """Evaluates the exported weights, writes ``metrics.json`` and returns its content.

    For images this also writes predictions, for texts a sample.

    Raises:
        UserError: a metric isn't finite.
    """
    models = models_of_run(setup.config, files, setup.device, setup.task.dataset)
    metrics = models.task.evaluate(models)
    for predictor, values in metrics.items():
        for name, value in values.items():
            if not math.isfinite(value):
                raise UserError(
                    f"{name} of the trained model ({predictor}) is {value} with optimizer.lr={setup.config.optimizer.lr}: lower it."
                )
    record = record_of(setup.config, files.path, setup.device, state.seconds, version)
    record |= {"precision": ", then ".join(state.precisions), "kept_bytes": kept_bytes(setup)}
    if not math.isnan(state.cpu_seconds):
        record["cpu_seconds"] = round(state.cpu_seconds, 3)
    if state.compile_seconds > 0:
        record["compile_seconds"] = round(state.compile_seconds, 3)
    record |= models.task.fingerprint()
    if (shown := models.task.show(models)) is not None:
        write_text(files.sample, shown)
    record["metrics"] = metrics
    write_json(files.metrics, record)
    return record
