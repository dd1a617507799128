"""The paper's tables, as configs in ``configs/table`` and as what finished runs make of them."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from late_phase.reporting.runs import markdown
from late_phase.reporting.statistics import LEVEL, Difference, compare, compare_with_published, mean_and_std, seeds_needed, verdict
from late_phase.support.console import duration
from late_phase.support.errors import UserError, first_line
from late_phase.support.files import read_json


@dataclass
class Column:
    """A number of each row.

    Attributes:
        title: with the unit.
        metric: a key of what predicts, in ``metrics.json`` or in the results of a suite; with ``record`` a key of the
            record itself.
        suite: by which it is evaluated; empty for what the end of a run measures.
        factor: from the metric's unit to the title's.
        digits: behind the decimal point.
    """

    title: str = MISSING
    metric: str = MISSING
    suite: str = ""
    record: bool = False
    factor: float = 1.0
    digits: int = 2
    more_is_better: bool = True


@dataclass
class Row:
    """Runs of one config that differ in their seeds.

    Attributes:
        experiment: empty where nothing is trained.
        overrides: of the experiment.
        predictor: whose numbers these are.
        seeds: empty for the table's.
        together: whether the runs are evaluated as one deep ensemble.
        against: name of the row that this one is compared with.
        paper: key of a column -> the paper's mean and, if there is one, its spread.
    """

    name: str = MISSING
    experiment: str = ""
    overrides: list[str] = field(default_factory=list)
    predictor: str = "single"
    seeds: list[int] = field(default_factory=list)
    together: bool = False
    against: str = ""
    paper: dict[str, list[float]] = field(default_factory=dict)
    note: str = ""


@dataclass
class Table:
    """
    Attributes:
        place: in the paper.
        seeds: of each row that doesn't have its own.
        scales: scale -> the one that this table takes instead of it, such as a text instead of images.
    """

    title: str = MISSING
    place: str = MISSING
    seeds: list[int] = MISSING
    columns: dict[str, Column] = MISSING
    rows: list[Row] = MISSING
    notes: list[str] = field(default_factory=list)
    scales: dict[str, str] = field(default_factory=dict)


def read_table(path: Path) -> Table:
    """The table that a file describes.

    Raises:
        UserError: it describes none.
    """
    try:
        table: Table = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Table), OmegaConf.load(path)))
        names = [row.name for row in table.rows]
        for row in table.rows:
            if names.count(row.name) > 1:
                raise ValueError(f"there are several rows of the name {row.name}")
            if row.against and row.against not in names:
                raise ValueError(f"{row.name} is compared with {row.against}, which is no row")
            if unknown := row.paper.keys() - table.columns.keys():
                raise ValueError(f"{row.name} has numbers of {', '.join(sorted(unknown))}, which is no column")
            if not all(1 <= len(numbers) <= 2 for numbers in row.paper.values()):
                raise ValueError(f"a number of {row.name} is not [mean] or [mean, spread]")
        return table
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} is no table ({first_line(error)}): see its neighbours.") from error


def result_of(folder: Path, seeds: Sequence[int], suite: str) -> Path:
    """The results of a suite on a run in ``folder``, or with several seeds on their deep ensemble."""
    name = f"seeds={','.join(map(str, seeds))}" if len(seeds) > 1 else f"seed={seeds[0]}"
    return folder / name / "evaluation" / f"{suite}.json"


@dataclass(frozen=True)
class Numbers:
    """What there is of a row.

    Attributes:
        values: key of a column -> seed -> value, in the column's unit.
        records: what they come from.
        wanted: how many values there should be.
        without: why there are none, if there can be none.
    """

    values: dict[str, dict[int, float]]
    records: list[dict[str, Any]]
    wanted: int
    without: str


def collect(table: Table, row: Row, folder: Path, seeds: Sequence[int], done: Collection[int], without: str = "") -> Numbers:
    """The numbers of a row from the runs in ``folder/seed=<n>``; those of a deep ensemble are one number, under its first seed.

    Args:
        done: seeds of finished runs with the row's config; others have no part.
    """
    found, records = {key: {} for key in table.columns}, []
    groups = [list(seeds)] if row.together else [[seed] for seed in seeds]
    for group in groups:
        own = [read_json(folder / f"seed={seed}" / "metrics.json") for seed in group if seed in done]
        records += own
        for key, column in table.columns.items():
            if column.suite or row.together:
                record = read_json(result_of(folder, group, column.suite or "accuracy"))
            else:
                record = own[0] if own else None
            value = _value(record, column, row.predictor)
            if value is not None and len(own) == len(group):
                found[key][group[0]] = column.factor * value
    return Numbers(found, records, len(groups), without)


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


def as_markdown(table: Table, results: Mapping[str, Numbers], scale: str = "") -> str:
    """The table, and below it what is compared with what, and where the numbers come from.

    Args:
        scale: at which ours were measured; empty for the paper's, where they are compared with the paper's, too.
    """
    title = f"# {table.place}: {table.title}"
    lines = [title, "", markdown(cells(table, results)), "", *comparisons(table, results)]
    if scale:
        place = f"`configs/scale/{scale}.yaml`"
        said = f"Ours are at scale {scale}, with data and network of {place}: only signs of differences compare with the paper."
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
    """A line for each of our numbers that differs from the paper's by more than noise; the paper's are of the table's seeds."""
    lines = []
    for row in table.rows:
        for key, values in results[row.name].values.items():
            published, column = row.paper.get(key), table.columns[key]
            if values and published is not None and len(published) == 2:
                found = compare_with_published(list(values.values()), *published, results[row.name].wanted)
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
    lines = [f"Ours: {len(records)} runs on {devices}, {duration(sum(record['seconds'] for record in records))} of training."]
    if len(commits := {str(record["git_commit"]) for record in records}) > 1:
        lines.append(f"The runs are of {len(commits)} commits: {', '.join(sorted(commit[:12] for commit in commits))}.")
    return lines


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
