"""Evaluates a finished run, several runs or given weights by the suites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from late_phase.runs.models import models_of_runs, models_of_weights
from late_phase.suites import SUITES
from late_phase.suites.config import OWN, EvaluateConfig
from late_phase.support.errors import UserError
from late_phase.support.files import make_folder, write_json
from late_phase.tasks.task import Metrics, TrainedModels


def evaluate(config: EvaluateConfig, device: torch.device) -> Iterator[dict[str, Any]]:
    """Evaluates what a checked config names, and yields the results of each suite.

    Each result says where it comes from, and is also written to ``<folder>/<suite>.json``. On another dataset than a run's own, it
    is written to ``<folder>/<dataset>/<suite>.json``.

    The folder is ``evaluation/`` in the run's directory, or ``seeds=<n>,.../evaluation/`` beside the runs of a deep ensemble, or
    ``to``. A run's own files stay as they are.

    Raises:
        UserError: the run, weights or dataset don't exist, or they don't go together.
    """
    models, provenance = trained_models(config, device)
    dataset = models.task.dataset
    to = models.results if dataset.train is not None or config.run is None else models.predictions
    make_folder("run" if config.to is None else "to", to)
    with FileLock(to / ".lock"):
        for suite in SUITES if config.suite == "all" else (config.suite,):
            try:
                numbers, amount = compute(suite, models, config)
            except (UserError, ValueError) as error:
                if config.suite == "all":
                    print(f"suite={suite} is skipped: {error}")
                    continue
                raise error if isinstance(error, UserError) else UserError(f"suite={suite} can't be computed: {error}") from error
            of = {"dataset": dataset.name, **amount, **models.task.fingerprint()}
            record = provenance | of | {"suite": suite, "metrics": numbers}
            write_json(to / f"{suite}.json", record)
            yield record


def trained_models(config: EvaluateConfig, device: torch.device) -> tuple[TrainedModels, dict[str, Any]]:
    """Returns the models that the config names, and where they come from: the first entries of its records.

    Raises:
        UserError: the run, weights or dataset don't exist, or they don't go together.
    """
    if config.run is None:
        return models_of_weights(config.architecture, config.dataset, Path(config.to), device)
    other = None if config.dataset.name == OWN else config.dataset
    if other is not None and not (config.suite in SUITES and SUITES[config.suite].elsewhere):
        raise UserError(
            f"suite={config.suite} is for the run's own dataset: leave out dataset={other.name}, or choose suite=accuracy."
        )
    return models_of_runs(Path(config.run), config.seeds, other, device)


def compute(suite: str, models: TrainedModels, config: EvaluateConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Computes a suite; see :attr:`late_phase.suites.Suite.compute`.

    Raises:
        UserError: the suite can't be computed for the models.
        ValueError: it can't be computed from their predictions.
    """
    kinds, own = SUITES[suite].tasks, models.task.kind
    if kinds and own not in kinds:
        others = [name for name, other in SUITES.items() if not other.tasks or own in other.tasks]
        raise UserError(
            f"suite={suite} is only for {' and '.join(kinds)}: choose {' or '.join(f'suite={name}' for name in others)}."
        )
    return SUITES[suite].compute(models, config)


def accuracy(models: TrainedModels, config: EvaluateConfig) -> tuple[Metrics, dict[str, int]]:
    """Returns the main metrics of the models, as at the end of a run; for a text, bits per character."""
    return models.task.evaluate(models), models.task.amount()
