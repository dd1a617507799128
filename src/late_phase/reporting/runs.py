"""Finished runs, wherever their directories are, and tables of their metrics over seeds."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from late_phase.reporting.statistics import mean_and_std
from late_phase.support.errors import UserError, first_line

PATTERNS = ("**/seed=*/metrics.json", "**/seeds=*/evaluation/accuracy.json")
"""Below a folder: runs, and deep ensembles."""

COLUMNS = {
    "test accuracy (%)": ("test_accuracy", 100, 2),
    "test NLL (nats)": ("test_nll", 1, 4),
    "test ECE (%)": ("test_ece", 100, 2),
    "training loss (nats)": ("train_loss", 1, 4),
    "train BPC": ("train_bpc", 1, 4),
    "validation BPC": ("validation_bpc", 1, 4),
    "test BPC": ("test_bpc", 1, 4),
}
"""Title -> metric, factor, digits after the point. Metrics of other names are in no table."""


@dataclass(frozen=True)
class Run:
    """A finished run, or a deep ensemble of several.

    Attributes:
        directory: where it is.
        record: its ``metrics.json``.
        history: its ``history.csv``; a deep ensemble has none.
        T0: in epochs, None if it never came to a late phase.
    """

    directory: Path
    record: dict[str, Any]
    history: list[dict[str, str]]
    T0: int | None

    @property
    def name(self) -> str:
        """Experiment and variant: what runs that differ in the seed only have in common."""
        experiment, variant, seed = (self.record[key] for key in ("experiment", "variant", "seed"))
        ensemble = f"deep ensemble of {len(seed)}" if isinstance(seed, list) else ""
        return " ".join(part for part in (experiment, "" if variant == "default" else variant, ensemble) if part)


def find_runs(places: Iterable[Path]) -> list[Run]:
    """All finished runs, and deep ensembles of them on their own dataset, ordered by name and seed; of copies one.

    Args:
        places: each a run's directory, whatever its name, or its ``metrics.json``, or a folder with directories ``seed=<n>`` below.

    Raises:
        UserError: there is none in one of ``places``.
    """
    found = {path.resolve() for place in places for path in _records(place)}
    runs = [read_run(path) for path in sorted(found)]
    unique = {json.dumps(run.record, sort_keys=True): run for run in reversed(runs)}
    return sorted(unique.values(), key=lambda run: (run.name, str(run.record["seed"]), run.directory))


def _records(place: Path) -> Iterable[Path]:
    """Where the metrics of the runs in or below ``place`` are."""
    if place.name == "metrics.json" and place.is_file():
        return [place]
    own = [path for path in (place / "metrics.json", place / "evaluation" / "accuracy.json") if path.exists()]
    if found := own[:1] + [path for pattern in PATTERNS for path in place.glob(pattern)]:
        return found
    raise UserError(f"there is no finished run below {place}: train one first, or give the directory with its metrics.json.")


def read_run(path: Path) -> Run:
    """The run, or deep ensemble, of a ``metrics.json``.

    Raises:
        UserError: its files are not whole.
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
        raise UserError(f"{path.parent} is no whole run ({first_line(error)}): repair it, or leave it out.") from error


def _T0_of(config: Path) -> int | None:
    """T0 of a run by its config, as the first records don't have it."""
    plain = OmegaConf.load(config)
    return None if plain.late_phase.name == "none" or plain.epochs <= plain.late_phase.T0 else plain.late_phase.T0


def copy_runs(runs: Sequence[Run], to: Path) -> None:
    """Config, history and metrics of each run, without weights and predictions: what to keep with a published result.

    They are named as the runs were when they were trained.

    Raises:
        UserError: two runs have the same name.
    """
    folders: dict[Path, Run] = {}
    for run in runs:
        experiment, variant, seed = (run.record[key] for key in ("experiment", "variant", "seed"))
        own = f"seed={seed}" if run.history else f"seeds={','.join(map(str, seed))}/evaluation"
        other = folders.setdefault(to / experiment / variant / own, run)
        if other is not run:
            raise UserError(f"{other.directory} and {run.directory} are of the same name and seed: keep one of them only.")
    for folder, run in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config.yaml", "history.csv", "metrics.json") if run.history else ("accuracy.json",):
            with suppress(shutil.SameFileError):  # it is there already
                shutil.copyfile(run.directory / name, folder / name)


def by_name(runs: Sequence[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.name, []).append(run)
    return groups


def table(runs: Sequence[Run]) -> str:
    """A Markdown table with a row for each name and predictor: mean ± sample standard deviation over seeds.

    Its columns are those that any of the runs has.
    """
    there = {key for run in runs for metrics in run.record["metrics"].values() for key in metrics}
    columns = {title: column for title, column in COLUMNS.items() if column[0] in there}
    rows = [["run", "model", *columns, "n"]]
    for name, group in by_name(runs).items():
        for predictor in sorted(group[0].record["metrics"], key=lambda name: name != "single"):  # the first records aren't in order
            metrics = [run.record["metrics"][predictor] for run in group]
            cells = [
                mean_and_std([m[key] * scale for m in metrics], digits) if all(key in m for m in metrics) else ""
                for key, scale, digits in columns.values()
            ]
            rows.append([name, predictor, *cells, str(len(group))])
    return markdown(rows)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with the columns aligned; the first row has their titles."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])
