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


@dataclass(frozen=True)
class Run:
    """A finished run: its directory, ``metrics.json``, ``history.csv`` and T0 in epochs, None without late phase."""

    directory: Path
    record: dict[str, Any]
    history: list[dict[str, str]]
    T0: int | None

    @property
    def name(self) -> str:
        """Experiment and variant: what runs that differ in the seed only have in common."""
        experiment, variant = self.record["experiment"], self.record["variant"]
        return experiment if variant == "default" else f"{experiment} {variant}"


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """All finished runs below ``folders``, ordered by name and seed.

    Raises:
        UserError: there is none.
    """
    folders = list(folders)
    runs = []
    found = {path.resolve() for folder in folders for path in (folder / "metrics.json", *folder.glob("**/seed=*/metrics.json"))}
    for path in sorted(path for path in found if path.exists() and path.parent.name.startswith("seed=")):
        try:
            with (path.parent / "history.csv").open(encoding="utf-8") as file:
                history = list(csv.DictReader(file))
            config = OmegaConf.load(path.parent / "config.yaml")
            T0 = None if config.late_phase.name == "none" else config.late_phase.T0
            record = json.loads(path.read_text(encoding="utf-8"))
            if "single" not in record["metrics"]:
                raise ValueError("metrics.json has no metrics")
            runs.append(Run(path.parent, record, history, T0))
        except (OSError, ValueError, KeyError, TypeError, OmegaConfBaseException) as error:
            raise UserError(f"{path.parent} is no whole run ({first_line(error)}): remove or repair it.") from error
    if not runs:
        raise UserError(f"there is no finished run below {', '.join(map(str, folders))}: train one first.")
    return sorted(runs, key=lambda run: (run.name, run.record["seed"]))


def copy_runs(runs: Sequence[Run], to: Path) -> None:
    """Config, history and metrics of each run, without weights and predictions: what to keep with a published result."""
    for run in runs:
        target = to.joinpath(*run.directory.resolve().parts[-3:])
        target.mkdir(parents=True, exist_ok=True)
        for name in ("config.yaml", "history.csv", "metrics.json"):
            shutil.copyfile(run.directory / name, target / name)


def by_name(runs: Sequence[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.name, []).append(run)
    return groups


def table(runs: Sequence[Run]) -> str:
    """A Markdown table with a row for each name and predictor: mean ± sample standard deviation over seeds."""
    columns = {
        "test accuracy (%)": ("test_accuracy", 100, 2),
        "test NLL (nats)": ("test_nll", 1, 4),
        "test ECE (%)": ("test_ece", 100, 2),
        "training loss (nats)": ("train_loss", 1, 4),
    }
    rows = [["run", "model", *columns, "n"]]
    for name, group in by_name(runs).items():
        for predictor in sorted(group[0].record["metrics"], reverse=True):  # single before ensemble
            metrics = [run.record["metrics"][predictor] for run in group]
            cells = [mean_and_std([m[key] * scale for m in metrics], digits) for key, scale, digits in columns.values()]
            rows.append([name, predictor, *cells, str(len(group))])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def mean_and_std(values: Sequence[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean
