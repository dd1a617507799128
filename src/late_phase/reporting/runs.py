"""Finished runs in any directories, and tables of their metrics over seeds."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from late_phase.reporting.statistics import mean_and_std
from late_phase.support.errors import UserError, first_line
from late_phase.support.files import atomic

PATTERNS = ("**/seed=*/metrics.json", "**/seeds=*/evaluation/accuracy.json")
"""Where runs and deep ensembles lie below a folder."""

COLUMNS = {
    "test accuracy (%)": ("test_accuracy", 100, 2),
    "test NLL (nats)": ("test_nll", 1, 4),
    "test ECE (%)": ("test_ece", 100, 2),
    "training loss (nats)": ("train_loss", 1, 4),
    "train BPC": ("train_bpc", 1, 4),
    "validation BPC": ("validation_bpc", 1, 4),
    "test BPC": ("test_bpc", 1, 4),
    "test RMSE": ("test_rmse", 1, 4),
    "test R²": ("test_r2", 1, 4),
}
"""Title -> metric, factor, digits after the point. Tables leave all other metrics out."""


@dataclass(frozen=True)
class Run:
    """A finished run, or a deep ensemble of several.

    Attributes:
        directory: the run's directory, or that of the deep ensemble's results.
        record: its ``metrics.json``, or a deep ensemble's ``accuracy.json``.
        history: its ``history.csv``; empty for a deep ensemble.
        T0: in epochs; None if the run has no late phase.
    """

    directory: Path
    record: dict[str, Any]
    history: list[dict[str, str]]
    T0: int | None

    @property
    def name(self) -> str:
        """Experiment and variant, which all seeds share."""
        experiment, variant, seed = (self.record[key] for key in ("experiment", "variant", "seed"))
        ensemble = f"deep ensemble of {len(seed)}" if isinstance(seed, list) else ""
        return " ".join(part for part in (experiment, "" if variant == "default" else variant, ensemble) if part)


def find_runs(places: Iterable[Path]) -> list[Run]:
    """Finds finished runs, and deep ensembles of them on their own dataset, ordered by name and seed. Copies count once.

    Args:
        places: run directories of any name, their ``metrics.json``, or folders with directories ``seed=<n>`` below.

    Raises:
        UserError: one of ``places`` has no finished run.
    """
    found = {path.resolve() for place in places for path in _records(place)}
    runs = [read_run(path) for path in sorted(found)]
    unique = {json.dumps(run.record, sort_keys=True): run for run in reversed(runs)}
    return sorted(unique.values(), key=lambda run: (run.name, str(run.record["seed"]), run.directory))


def _records(place: Path) -> Iterable[Path]:
    """Returns the files with the metrics of the runs in or below ``place``."""
    if place.name == "metrics.json" and place.is_file():
        return [place]
    own = [path for path in (place / "metrics.json", place / "evaluation" / "accuracy.json") if path.exists()]
    if found := own[:1] + [path for pattern in PATTERNS for path in place.glob(pattern)]:
        return found
    raise UserError(f"there is no finished run below {place}: train one first, or give the directory with its metrics.json.")


def read_run(path: Path) -> Run:
    """Reads a run, or a deep ensemble, from its file of metrics.

    Raises:
        UserError: a file is missing or damaged.
    """
    directory, history = path.parent, []
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not record["metrics"] or not all(isinstance(values, dict) for values in record["metrics"].values()):
            raise ValueError(f"{path.name} has no metrics of a run")
        if missing := [key for key in ("experiment", "variant", "seed") if key not in record]:
            raise ValueError(f"{path.name} lacks {', '.join(missing)}")
        if isinstance(record["seed"], list):
            directory = path.parents[2] / f"seed={record['seed'][0]}"
        else:
            with (directory / "history.csv").open(encoding="utf-8") as file:
                history = list(csv.DictReader(file))
        return Run(path.parent, record, history, record["T0"] if "T0" in record else _T0_of(directory / "config.yaml"))
    except (OSError, ValueError, KeyError, TypeError, csv.Error, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path.parent} is not a complete run ({first_line(error)}): repair it, or leave it out.") from error


def _T0_of(config: Path) -> int | None:
    """Returns T0 from a run's config, for the oldest records, which lack it."""
    plain = OmegaConf.load(config)
    return None if plain.late_phase.name == "none" or plain.epochs <= plain.late_phase.T0 else plain.late_phase.T0


def copy_runs(runs: Sequence[Run], to: Path) -> None:
    """Copies what to keep with a published result: config, history and metrics of each run, without weights and predictions.

    The copies have the names that the runs had when they were trained.

    Raises:
        UserError: two runs have the same name and seed.
    """
    folders: dict[Path, Run] = {}
    for run in runs:
        experiment, variant, seed = (run.record[key] for key in ("experiment", "variant", "seed"))
        own = f"seed={seed}" if run.history else f"seeds={','.join(map(str, seed))}/evaluation"
        other = folders.setdefault(to / experiment / variant / own, run)
        if other is not run:
            raise UserError(f"{other.directory} and {run.directory} have the same name and seed: keep only one of them.")
    for folder, run in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config.yaml", "history.csv", "metrics.json") if run.history else ("accuracy.json",):
            with atomic(folder / name) as partial:
                shutil.copyfile(run.directory / name, partial)


def by_name(runs: Sequence[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.name, []).append(run)
    return groups


def table(runs: Sequence[Run]) -> str:
    """Returns a Markdown table with a row for each name and predictor: mean ± sample standard deviation over seeds.

    It has a column for each metric that any of the runs has.
    """
    there = {key for run in runs for metrics in run.record["metrics"].values() for key in metrics}
    columns = {title: column for title, column in COLUMNS.items() if column[0] in there}
    rows = [["run", "model", *columns, "n"]]
    for name, group in by_name(runs).items():
        for predictor in sorted(group[0].record["metrics"], key=lambda name: name != "single"):  # old records aren't in order
            metrics = [run.record["metrics"][predictor] for run in group]
            cells = [
                mean_and_std([m[key] * scale for m in metrics], digits) if all(key in m for m in metrics) else ""
                for key, scale, digits in columns.values()
            ]
            rows.append([name, predictor, *cells, str(len(group))])
    return markdown(rows)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table with aligned columns. The first row has their titles."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])
