"""Tables of the paper, made of finished runs: the paper's numbers beside ours, and what their differences say."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from late_phase.reporting.runs import markdown
from late_phase.reporting.statistics import LEVEL, Difference, compare, compare_with_published, mean_and_std, seeds_needed, verdict
from late_phase.reporting.table_config import Column, Row, Table
from late_phase.runs.directory import RunDirectory
from late_phase.support.console import duration
from late_phase.support.files import read_json


def result_of(folder: Path, seeds: Sequence[int], suite: str) -> Path:
    """The results of a suite on a run in ``folder``, or with several seeds on their deep ensemble."""
    name = f"seeds={','.join(map(str, seeds))}" if len(seeds) > 1 else f"seed={seeds[0]}"
    return folder / name / "evaluation" / f"{suite}.json"


def read_result(folder: Path, seeds: Sequence[int], suite: str) -> dict[str, Any] | None:
    """The record of a suite's results; None if there is none, or a damaged one, or one of what a user has chosen."""
    try:
        record = read_json(result_of(folder, seeds, suite))
    except ValueError:
        return None
    return None if record is None or "ood" in record else record


@dataclass(frozen=True)
class Numbers:
    """What there is of a row.

    Attributes:
        values: key of a column -> seed -> value, in the column's unit.
        records: what they come from.
        wanted: how many values there should be.
        published: how many values are behind the paper's.
        without: why there are none, if there can be none.
    """

    values: dict[str, dict[int, float]]
    records: list[dict[str, Any]]
    wanted: int
    published: int
    without: str


def collect(table: Table, row: Row, folder: Path, seeds: Sequence[int], done: Collection[int], without: str = "") -> Numbers:
    """The numbers of a row from the runs in ``folder/seed=<n>``; those of a deep ensemble are one number, under its first seed.

    Args:
        done: seeds of finished runs with the row's config; others have no part.
    """
    found, records = {key: {} for key in table.columns}, []
    groups = [list(seeds)] if row.together else [[seed] for seed in seeds]
    for group in groups:
        own = [RunDirectory(folder / f"seed={seed}").read_metrics() for seed in group if seed in done]
        records += own
        for key, column in table.columns.items():
            if column.suite or row.together:
                record = read_result(folder, group, column.suite or "accuracy")
            else:
                record = own[0] if own else None
            value = _value(record, column, row.predictor)
            if value is not None and len(own) == len(group):
                found[key][group[0]] = column.factor * value
    return Numbers(found, records, len(groups), 1 if row.together else len(row.seeds or table.seeds), without)


def _value(record: dict[str, Any] | None, column: Column, predictor: str) -> float | None:
    if record is None:
        return None
    return record.get(column.metric) if column.record else record["metrics"].get(predictor, {}).get(column.metric)


def paper_cell(numbers: Sequence[float] | None, digits: int) -> str:
    """The paper's mean ± spread, or nothing."""
    return "" if numbers is None else " ± ".join(f"{number:.{digits}f}" for number in numbers)


def own_cell(numbers: Numbers, key: str, digits: int) -> str:
    """Ours: mean ± sample standard deviation over seeds; and how many seeds there are, if these are not all."""
    values = list(numbers.values[key].values())
    if not values:
        return "–" if numbers.without else "missing"
    cell = mean_and_std(values, digits)
    return cell if len(values) == numbers.wanted else f"{cell} (n = {len(values)} of {numbers.wanted})"


def cells(table: Table, results: Mapping[str, Numbers]) -> list[list[str]]:
    """The table as texts, its first row the titles: for each column the paper's numbers, where it has any, and ours; and n."""
    published = {key for row in table.rows for key in row.paper}
    columns = [(key, whose) for key in table.columns for whose in ("paper", "ours") if whose == "ours" or key in published]
    rows = [["", *(f"{whose}: {table.columns[key].title}" for key, whose in columns), "n"]]
    for row in table.rows:
        numbers, digits = results[row.name], {key: column.digits for key, column in table.columns.items()}
        own = [
            own_cell(numbers, key, digits[key]) if whose == "ours" else paper_cell(row.paper.get(key), digits[key])
            for key, whose in columns
        ]
        rows.append([row.name, *own, str(max(map(len, numbers.values.values())))])
    return rows


def as_markdown(table: Table, results: Mapping[str, Numbers], changes: Sequence[str] = ()) -> str:
    """The table, and below it what is compared with what, and where the numbers come from.

    Args:
        changes: overrides of all runs, by which these are others than the paper's; without any they are compared with the paper's.
    """
    lines = [f"# {table.place}: {table.title}", "", markdown(cells(table, results)), "", *comparisons(table, results)]
    if changes:
        said = f"Ours are with `{' '.join(changes)}`: of differences only the signs compare with the paper's."
        lines[1:1] = ["", said]
    else:
        lines += reproductions(table, results)
    lines += [f"* {name} has no runs here: {numbers.without.rstrip('.')}." for name, numbers in results.items() if numbers.without]
    lines += [f"* {row.name}: {row.note}" for row in table.rows if row.note]
    lines += [f"* {row.name}: ours is of {len(results[row.name].records)} runs." for row in table.rows if row.together]
    lines += [f"* {note}" for note in [*table.notes, *provenance(results)]]
    return "\n".join(lines).rstrip() + "\n"


def comparisons(table: Table, results: Mapping[str, Numbers]) -> list[str]:
    """A line for each row that is compared with another one, and each column: the difference, and whether it is more than noise."""
    rows, lines = {row.name: row for row in table.rows}, []
    for row in table.rows:
        for key, column in table.columns.items() if row.against else ():
            ours, other = results[row.name].values[key], results[row.against].values[key]
            if ours and other:
                line = f"* {row.name} against {row.against}, {column.title}: {told(compare(ours, other), column)}"
                lines.append(line + power(row.paper.get(key), rows[row.against].paper.get(key), column))
    return [*lines, ""] if lines else []


def reproductions(table: Table, results: Mapping[str, Numbers]) -> list[str]:
    """A line for each of our numbers that differs from the paper's by more than noise."""
    lines = []
    for row in table.rows:
        for key, values in results[row.name].values.items():
            published, column = row.paper.get(key), table.columns[key]
            if values and published is not None and len(published) == 2:
                found = compare_with_published(list(values.values()), *published, results[row.name].published)
                if found.p is not None and found.p < LEVEL:
                    lines.append(f"* {row.name}, {column.title}, is not the paper's: {told(found, column)}")
    return [*lines, ""] if lines else []


def power(one: Sequence[float] | None, other: Sequence[float] | None, column: Column) -> str:
    """What the paper's numbers say of the same rows, and how many seeds would show such a difference four times of five."""
    if one is None or other is None:
        return ""
    difference = one[0] - other[0]
    text = f". The paper: {difference:+.{column.digits}f}"
    if len(one) < 2 or len(other) < 2:
        return text
    needed = seeds_needed(difference, one[1], other[1])
    return f"{text}, which takes {needed if needed else 'any number of'} seeds to be seen"


def told(difference: Difference, column: Column) -> str:
    """A difference in words."""
    interval = difference.interval
    between = "" if interval is None else f" (95 %: {interval[0]:+.{column.digits}f} to {interval[1]:+.{column.digits}f})"
    tested = "paired by seed" if difference.paired else f"n = {difference.n[0]} and {difference.n[1]}"
    return f"{difference.mean:+.{column.digits}f}{between}, {tested}: {verdict(difference, column.more_is_better)}"


def provenance(results: Mapping[str, Numbers]) -> list[str]:
    """What code and which hardware the numbers come from, and how long it took; rows may share runs."""
    of_rows = (record for numbers in results.values() for record in numbers.records)
    records = list({tuple(record[key] for key in ("experiment", "variant", "seed")): record for record in of_rows}.values())
    if not records:
        return []
    devices = ", ".join(sorted({str(record["device"]) for record in records}))
    commits = ", ".join(sorted({_short(record["git_commit"]) for record in records}))
    took = duration(sum(record["seconds"] for record in records))
    return [f"Ours: {len(records)} runs on {devices}, {took} of training, by commit {commits}."]


def _short(commit: str | None) -> str:
    return "unknown" if commit is None else commit[:12] + "-dirty" * commit.endswith("-dirty")


def as_csv(table: Table, results: Mapping[str, Numbers]) -> str:
    """A line for each row and column, numbers in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "column", "paper_mean", "paper_spread", "mean", "std", "n", "values_by_seed"])
    for row in table.rows:
        for key, values in results[row.name].values.items():
            published = [*row.paper.get(key, []), "", ""][:2]
            own = list(values.values())
            mean = statistics.mean(own) if own else ""
            std = statistics.stdev(own) if len(own) > 1 else ""
            by_seed = " ".join(f"{seed}:{value!r}" for seed, value in values.items())
            writer.writerow([row.name, key, *published, mean, std, len(own), by_seed])
    return text.getvalue()


def as_latex(table: Table, results: Mapping[str, Numbers]) -> str:
    """The table as a ``tabular``."""
    first, *rows = ([_tex(cell) for cell in row] for row in cells(table, results))
    lines = [f"\\begin{{tabular}}{{l{'r' * (len(first) - 1)}}}", " & ".join(first) + " \\\\", "\\hline"]
    return "\n".join([*lines, *(" & ".join(row) + " \\\\" for row in rows), "\\end{tabular}"]) + "\n"


def _tex(text: str) -> str:
    escaped = re.sub(r"([%&_#$])", r"\\\1", text)
    return escaped.replace("±", "$\\pm$").replace("σ", "$\\sigma$").replace("γ", "$\\gamma$").replace("θ", "$\\theta$")
