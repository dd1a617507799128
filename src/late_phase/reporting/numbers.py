"""The numbers of a table's rows, read from finished runs and their evaluations."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from late_phase.methods import deep_ensemble
from late_phase.reporting.table_config import Column, Row, Table, seeds_of
from late_phase.runs.directory import RunDirectory
from late_phase.runs.errors import error_of
from late_phase.support.files import read_json

Line = dict[float, float]
"""x -> number: the points of a line."""


@dataclass(frozen=True)
class Numbers:
    """The numbers of a row.

    Attributes:
        values: key of a column -> seed -> value, in the column's unit. A line has its last number here, or its mean over
            ``Column.over``.
        lines: key of a column whose numbers are lines -> seed -> the line.
        records: records of the runs that the numbers come from.
        wanted: how many values there should be.
        published: how many values the paper's mean has.
        without: why the row can't have runs; empty if it can.
        failed: what ended with an error -> the error.
        impossible: key of a column -> why the row can't have a number there.
        evaluated_by: versions of the code that evaluated the suites.
    """

    values: dict[str, dict[int, float]]
    records: list[dict[str, Any]]
    wanted: int
    published: int
    lines: dict[str, dict[int, Line]] = field(default_factory=dict)
    without: str = ""
    failed: dict[str, str] = field(default_factory=dict)
    impossible: dict[str, str] = field(default_factory=dict)
    evaluated_by: set[str] = field(default_factory=set)


def code_of(record: Mapping[str, Any]) -> str:
    """Returns the version of the code that made a record. The oldest records don't have it."""
    return record.get("code", "unknown")


def results_in(folder: Path, seeds: Sequence[int], together: bool) -> Path:
    """Returns the folder of the suites' results on a seed's run in ``folder``, or on the deep ensemble of several seeds."""
    return (deep_ensemble.folder(folder, seeds) if together else folder / f"seed={seeds[0]}") / "evaluation"


def read_result(folder: Path, seeds: Sequence[int], suite: str, together: bool = False) -> dict[str, Any] | None:
    """Reads the record of a suite's results on finished runs.

    Returns None if the record is missing or damaged, belongs to earlier runs, or has OOD datasets that a user has chosen.
    """
    try:
        record = read_json(results_in(folder, seeds, together) / f"{suite}.json")
    except ValueError:
        return None
    if record is None or "ood" in record:
        return None
    # A record has the summed seconds of its runs, to the millisecond. Other runs hardly take exactly as long.
    took = sum(RunDirectory(folder / f"seed={seed}").read_metrics()["seconds"] for seed in seeds)
    return record if abs(record["seconds"] - took) < 0.001 * len(seeds) else None


def collect(
    table: Table, row: Row, folder: Path, seeds: Sequence[int], done: Collection[int], epochs: int, scale: str = ""
) -> Numbers:
    """Collects the numbers of a row from the runs in ``folder/seed=<n>``. A deep ensemble has one number, under its first seed.

    Args:
        done: seeds of finished runs with the row's config; other runs are left out.
        epochs: number of epochs of a run.
        scale: decides how many seeds there should be.
    """
    groups = [list(seeds)] if row.together else [[seed] for seed in seeds]
    wanted, published = (1, 1) if row.together else (len(seeds_of(table, row, scale)), len(row.seeds or table.seeds))
    columns = table.columns_of(row)
    found = Numbers({key: {} for key in columns}, [], wanted, published)
    for group in groups:
        runs = [RunDirectory(folder / f"seed={seed}") for seed in group if seed in done]
        own = [run.read_metrics() for run in runs]
        found.records.extend(own)
        if len(own) < len(group):
            continue
        for key, column in columns.items():
            if column.x == "epoch":
                if row.predictor != "single":
                    found.impossible[key] = "the history is that of the single model"
                    continue
                line = _history(runs[0].history, column)
                if epochs not in line:  # every run measures its last epoch
                    found.failed[f"seed {group[0]}"] = (
                        f"{runs[0].history} has no {column.metric} of epoch {epochs}: move the run away to train it again, or, if "
                        "it stopped early, leave x: epoch out of the column."
                    )
                    continue
            else:
                suite = column.suite or ("accuracy" if row.together else "")
                record = read_result(folder, group, suite, row.together) if suite else own[0]
                if record is None and (error := results_in(folder, group, row.together) / error_of(suite)).exists():
                    found.failed[f"seed {group[0]}, suite={suite}"] = error.read_text(encoding="utf-8").strip()
                if suite and record is not None:
                    found.evaluated_by.add(code_of(record))
                line = _line(record, column, row.predictor)
                if record is not None and not line:
                    where = f"suite={suite} on dataset={record['dataset']}" if suite else "a run"
                    found.impossible[key] = f"{where} gives no {column.metric}"
            if line:
                first, last = column.over or (max(line), max(line))
                numbers = [y for x, y in line.items() if first <= x <= last]
                if numbers:
                    found.values[key][group[0]] = statistics.mean(numbers)
                else:
                    found.impossible[key] = f"there are none from {first:g} to {last:g}"
                if column.x:
                    found.lines.setdefault(key, {})[group[0]] = line
    return found


def _line(record: dict[str, Any] | None, column: Column, predictor: str) -> Line:
    """Returns the numbers of a column in a record, in the column's unit. A single number is at x = 0."""
    if record is None:
        return {}
    place = record if column.record else record["metrics"].get(predictor, {})
    value = place.get(column.metric)
    if value is None:
        return {}
    if not column.x:
        return {0: column.factor * value}
    return {x: column.factor * y for x, y in zip(place[column.x], value, strict=True)}


def _history(path: Path, column: Column) -> Line:
    """Returns the numbers of a column in ``history.csv`` over epochs. Epochs without a measurement are left out."""
    with path.open(encoding="utf-8") as file:
        measured = [row for row in csv.DictReader(file) if row.get(column.metric)]
    return {int(row["epoch"]): column.factor * float(row[column.metric]) for row in measured}
