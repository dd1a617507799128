"""Tables of the paper, made from finished runs: the paper's numbers beside ours, and verdicts on the differences."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from late_phase.reporting.numbers import Numbers, code_of
from late_phase.reporting.runs import markdown
from late_phase.reporting.statistics import (
    LEVEL,
    Difference,
    compare,
    compare_with_published,
    mean_and_std,
    p_in_words,
    seeds_needed,
    verdict,
)
from late_phase.reporting.table_config import Column, Row, Table, of_task, without_task
from late_phase.support.console import duration


def paper_cell(numbers: Sequence[float] | None, digits: int) -> str:
    """Returns the paper's mean ± spread, or an empty text."""
    return "" if numbers is None else " ± ".join(f"{number:.{digits}f}" for number in numbers)


def own_cell(numbers: Numbers, key: str, column: Column) -> str:
    """Returns our mean ± sample standard deviation over seeds, with the number of seeds if some are missing."""
    values = list(numbers.values[key].values())
    if not values:
        if numbers.without or key in numbers.impossible:
            return "–"
        return "failed" if numbers.failed else "missing"
    cell = mean_and_std(values, column.digits)
    return cell if len(values) == numbers.wanted else f"{cell} (n = {len(values)} of {numbers.wanted})"


def cells(table: Table, results: Mapping[str, Numbers]) -> list[list[str]]:
    """Returns the table as texts, with titles in the first row.

    Each column has the paper's numbers, if there are any, and ours. The last column is n. In a table of several tasks, rows that
    differ only in the task stand in one line.
    """
    published = {key for row in table.rows for key in row.paper}
    columns = [(key, whose) for key in table.columns for whose in ("paper", "ours") if whose == "ours" or key in published]
    of_whom = {whose: f"{whose}: " if published else "" for whose in ("paper", "ours")}
    found = [["", *(f"{of_whom[whose]}{table.columns[key].title}" for key, whose in columns), "n"]]
    lines: dict[str, dict[str, Row]] = {}
    for row in table.rows:
        lines.setdefault(row.line_name, {})[row.task] = row
    for name, rows in lines.items():
        line = [name]
        for key, whose in columns:
            column = table.columns[key]
            if column.task not in rows:
                line.append("")
                continue
            row = rows[column.task]
            numbers = paper_cell(row.paper.get(key), column.digits)
            line.append(numbers if whose == "paper" else own_cell(results[row.name], key, column) + tests(table, row, key, results))
        n = max(len(values) for row in rows.values() for values in results[row.name].values.values())
        found.append([*line, str(n)])
    return found


def tests(table: Table, row: Row, key: str, results: Mapping[str, Numbers]) -> str:
    """Returns the p values of a row's comparisons with the table's ``against``, in parentheses, in its order; "–" with itself."""
    ours = results[row.name].values[key]
    if not (table.against and table.columns[key].compared and ours):
        return ""
    said = []
    for name in (of_task(name, row.task) for name in table.against):
        other = results[name].values[key]
        said.append("–" if name == row.name else p_in_words(compare(ours, other).p) if other else "missing")
    return f" ({'; '.join(said)})"


@dataclass(frozen=True)
class Said:
    """The texts of a table.

    Attributes:
        heading: place and title.
        changes: how our runs differ from the paper's; empty if they don't.
        cells: see :func:`cells`.
        findings: differences between rows, and differences from the paper's numbers.
        notes: see :func:`notes`.
    """

    heading: str
    changes: str
    cells: list[list[str]]
    findings: list[str]
    notes: list[str]


def say(table: Table, results: Mapping[str, Numbers], changes: Sequence[str] = ()) -> Said:
    """Returns the texts of a table.

    Args:
        changes: overrides of all runs that make them differ from the paper's. Only without any are our numbers compared with the
            paper's.
    """
    findings = [comparison.in_words() for comparison in comparisons(table, results)]
    if not changes:
        findings += reproductions(table, results)
    told = ""
    if changes and any(row.paper for row in table.rows):
        told = f"Our runs use `{' '.join(changes)}`: only the signs of differences compare with the paper's."
    return Said(f"{table.place}: {table.title}", told, cells(table, results), findings, notes(table, results))


def as_page(table: Table, said: Said, drawn: Sequence[Path]) -> str:
    """Returns the table as a page of its own: the introduction, the figure, and then all that :func:`as_markdown` says.

    Args:
        drawn: the figure's files, as the page names them.
    """
    heading, _, rest = as_markdown(said).partition("\n\n")
    pictures = [f"![{table.title}]({path.as_posix()})" for path in drawn if path.suffix == ".png"]
    return "\n\n".join([heading, table.introduction.strip(), *pictures, rest])


def as_markdown(said: Said) -> str:
    lines = [f"# {said.heading}", "", *([said.changes, ""] if said.changes else []), markdown(said.cells), ""]
    for block in (said.findings, said.notes):
        lines += [*(f"* {line}" for line in block), ""] if block else []
    return "\n".join(lines).rstrip() + "\n"


@dataclass(frozen=True)
class Comparison:
    """A comparison of two rows in one column, row − against, with the paper's difference.

    Attributes:
        key: key of the column.
        paper: the paper's difference; None if it has none.
        seeds: number of seeds of each row that shows the paper's difference four times out of five; 0 if no number does; None
            if the paper's spread is unknown.
    """

    row: str
    against: str
    key: str
    column: Column
    difference: Difference
    paper: float | None
    seeds: int | None

    def in_words(self) -> str:
        row, against = (without_task(name, self.column.task) for name in (self.row, self.against))
        line = f"{row} against {against}, {self.column.title}: {told(self.difference, self.column)}"
        if self.paper is None:
            return line
        line += f". The paper: {self.paper:+z.{self.column.digits}f}"
        if self.seeds is None:
            return line
        return f"{line}, which {self.seeds if self.seeds else 'no number of'} seeds would show"


def comparisons(table: Table, results: Mapping[str, Numbers]) -> list[Comparison]:
    """Compares each row with those that the table says, in each column where both have numbers."""
    rows, found = {row.name: row for row in table.rows}, []
    for row in table.rows:
        for name in table.compared_with(row):
            for key, column in table.columns_of(row).items():
                ours, other = results[row.name].values[key], results[name].values[key]
                if column.compared and ours and other:
                    published = of_paper(row.paper.get(key), rows[name].paper.get(key))
                    found.append(Comparison(row.name, name, key, column, compare(ours, other), *published))
    return found


def of_paper(one: Sequence[float] | None, other: Sequence[float] | None) -> tuple[float | None, int | None]:
    """Returns the paper's difference and the number of seeds that would show it: see :class:`Comparison`."""
    if one is None or other is None:
        return None, None
    difference = one[0] - other[0]
    return difference, (seeds_needed(difference, one[1], other[1]) or 0) if len(one) == len(other) == 2 else None


def reproductions(table: Table, results: Mapping[str, Numbers]) -> list[str]:
    """Returns a line for each of our numbers that differs from the paper's by more than noise."""
    lines = []
    for row in table.rows:
        for key, values in results[row.name].values.items():
            published, column = row.paper.get(key), table.columns[key]
            if values and published is not None and len(published) == 2:
                found = compare_with_published(list(values.values()), *published, results[row.name].published)
                if found.p is not None and found.p < LEVEL:
                    lines.append(f"{row.name}, {column.title}, differs from the paper: {told(found, column)}")
    return lines


def told(difference: Difference, column: Column) -> str:
    """Returns a difference in words."""
    interval = difference.interval
    between = "" if interval is None else f" (95 %: {interval[0]:+z.{column.digits}f} to {interval[1]:+z.{column.digits}f})"
    tested = f"paired by seed, n = {difference.n[0]}" if difference.paired else f"n = {difference.n[0]} and {difference.n[1]}"
    return f"{difference.mean:+z.{column.digits}f}{between}, {tested}: {verdict(difference, column.more_is_better)}"


def notes(table: Table, results: Mapping[str, Numbers]) -> list[str]:
    """Returns the notes below a table: which numbers are missing and why, what differs from the paper, and where ours come from."""
    lines = [f"{name} has no runs: {numbers.without.rstrip('.')}." for name, numbers in results.items() if numbers.without]
    lines += [f"{name}, {what} failed: {error}" for name, numbers in results.items() for what, error in numbers.failed.items()]
    titles: dict[str, list[str]] = {}
    for key, column in table.columns.items():
        for reason in dict.fromkeys(own.impossible[key] for own in results.values() if key in own.impossible):
            titles.setdefault(reason, []).append(column.title)
    lines += [f"{', '.join(own)}: no numbers, as {reason}." for reason, own in titles.items()]
    lines += [f"{row.name}: {row.note}" for row in table.rows if row.note]
    ensembles = {row.name: results[row.name] for row in table.rows if row.together}
    lines += [f"{name}: ours combines {len(own.records)} runs." for name, own in ensembles.items() if any(own.values.values())]
    lines += [*table.notes, *provenance(runs_of(results))]
    if len(codes := set().union(*(own.evaluated_by for own in results.values()))) > 1:
        lines.append(f"The evaluations mix {len(codes)} versions of the code: {', '.join(sorted(codes))}.")
    return lines


def runs_of(results: Mapping[str, Numbers]) -> list[dict[str, Any]]:
    """Returns the records of all runs, each once, as rows may share runs."""
    of_rows = (record for numbers in results.values() for record in numbers.records)
    own = ("experiment", "variant", "seed", "seconds")  # seconds tell a run from one that replaced it
    return list({tuple(record[key] for key in own): record for record in of_rows}.values())


def provenance(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns lines on the hardware, training time and code that the numbers of runs come from."""
    if not records:
        return []
    devices = ", ".join(sorted({_hardware(record) for record in records}))
    commits = ", ".join(sorted({_short(record["git_commit"]) for record in records}))
    took = duration(sum(record["seconds"] for record in records))
    lines = [f"Ours: {len(records)} run{'s' * (len(records) > 1)} on {devices}, {took} of training, by commit {commits}."]
    if len(codes := {code_of(record) for record in records}) > 1:
        lines.append(f"The runs mix {len(codes)} versions of the code: {', '.join(sorted(codes))}.")
    return lines


def _hardware(record: Mapping[str, Any]) -> str:
    """Returns the device of a run, and the precision unless it is fp32. The oldest records don't say it."""
    precision = record.get("precision", "fp32")
    return str(record["device"]) if precision == "fp32" else f"{record['device']} in {precision}"


def _short(commit: str | None) -> str:
    return "unknown" if commit is None else commit[:12] + "-dirty" * commit.endswith("-dirty")


def as_csv(table: Table, results: Mapping[str, Numbers]) -> str:
    """Returns the table as CSV: a line for each row and column, with unrounded numbers."""
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


def as_latex(said: Said) -> str:
    """Returns the table as a LaTeX ``tabular``."""
    first, *rows = ([_tex(cell) for cell in row] for row in said.cells)
    lines = [f"\\begin{{tabular}}{{l{'r' * (len(first) - 1)}}}", " & ".join(first) + " \\\\", "\\hline"]
    return "\n".join([*lines, *(" & ".join(row) + " \\\\" for row in rows), "\\end{tabular}"]) + "\n"


def _tex(text: str) -> str:
    escaped = re.sub(r"([%&_#$])", r"\\\1", text)
    return escaped.replace("±", "$\\pm$").replace("σ", "$\\sigma$").replace("γ", "$\\gamma$").replace("θ", "$\\theta$")
