"""Finished runs, wherever their directories are, and tables of their metrics over seeds."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from late_phase.errors import UserError, first_line
from late_phase.evaluation.predict import PREDICTORS


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


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """All finished runs below ``folders``, and deep ensembles of them on their own dataset, ordered by name and seed.

    Raises:
        UserError: there is none.
    """
    folders = list(folders)
    patterns = ("**/seed=*/metrics.json", "**/seeds=*/evaluation/accuracy.json")
    found = {path for folder in folders for pattern in patterns for path in folder.glob(pattern)}
    found |= {folder / "metrics.json" for folder in folders if folder.resolve().name.startswith("seed=")}
    runs = [read_run(path) for path in sorted({path.resolve() for path in found}) if path.exists()]
    if not runs:
        raise UserError(f"there is no finished run below {', '.join(map(str, folders))}: train one first.")
    return sorted(runs, key=lambda run: (run.name, str(run.record["seed"])))


def read_run(path: Path) -> Run:
    """The run, or deep ensemble, of a ``metrics.json``.

    Raises:
        UserError: its files are not whole.
    """
    directory, history = path.parent, []
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not record["metrics"]:
            raise ValueError("metrics.json has no metrics")
        if isinstance(record["seed"], list):
            directory = path.parents[2] / f"seed={record['seed'][0]}"
        else:
            with (directory / "history.csv").open(encoding="utf-8") as file:
                history = list(csv.DictReader(file))
        config = OmegaConf.load(directory / "config.yaml")
        T0 = None if config.late_phase.name == "none" or config.epochs <= config.late_phase.T0 else config.late_phase.T0
        return Run(path.parent, record, history, T0)
    except (OSError, ValueError, KeyError, TypeError, OmegaConfBaseException) as error:
        raise UserError(f"{path.parent} is no whole run ({first_line(error)}): remove or repair it.") from error


def copy_runs(runs: Sequence[Run], to: Path) -> None:
    """Config, history and metrics of each run, without weights and predictions: what to keep with a published result."""
    for run in runs:
        parts = run.directory.resolve().parts[-3 if run.history else -4 :]
        target = to.joinpath(*parts)
        target.mkdir(parents=True, exist_ok=True)
        for name in ("config.yaml", "history.csv", "metrics.json") if run.history else ("accuracy.json",):
            shutil.copyfile(run.directory / name, target / name)


def by_name(runs: Sequence[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.name, []).append(run)
    return groups


def table(runs: Sequence[Run]) -> str:
    """A Markdown table with a row for each name and predictor: mean ± sample standard deviation over seeds.

    Its columns are those that any of the runs has.
    """
    columns = {
        "test accuracy (%)": ("test_accuracy", 100, 2),
        "test NLL (nats)": ("test_nll", 1, 4),
        "test ECE (%)": ("test_ece", 100, 2),
        "training loss (nats)": ("train_loss", 1, 4),
        "train BPC": ("train_bpc", 1, 4),
        "validation BPC": ("validation_bpc", 1, 4),
        "test BPC": ("test_bpc", 1, 4),
    }
    there = {key for run in runs for metrics in run.record["metrics"].values() for key in metrics}
    columns = {head: column for head, column in columns.items() if column[0] in there}
    rows = [["run", "model", *columns, "n"]]
    for name, group in by_name(runs).items():
        for predictor in sorted(group[0].record["metrics"], key=PREDICTORS.index):
            metrics = [run.record["metrics"][predictor] for run in group]
            cells = [
                mean_and_std([m[key] * scale for m in metrics], digits) if all(key in m for m in metrics) else ""
                for key, scale, digits in columns.values()
            ]
            rows.append([name, predictor, *cells, str(len(group))])
    return markdown(rows)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with the columns aligned; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def mean_and_std(values: Sequence[float], digits: int) -> str:
    mean = f"{statistics.mean(values):z.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):z.{digits}f}" if len(values) > 1 else mean
