"""The configs of tables and figures, ``configs/table/*.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from late_phase.support.errors import UserError, first_line

SEEDS = (0, 1, 2)
"""Default seeds at scales other than the paper's."""


@dataclass
class Column:
    """A column: one number for each row, or, in a figure, a line of numbers.

    Attributes:
        title: title with the unit.
        metric: a predictor's key in ``metrics.json`` or in a suite's results; with ``record``, a key of the record itself.
        suite: the suite that evaluates the metric; empty if the run itself measures it.
        x: for a line of numbers, what they are plotted against: ``epoch`` for a column of ``history.csv``, or a key beside the
            metric. The table shows the line's last number.
        over: the table shows the mean of the line's numbers from the first to the second x instead.
        axis: title of the y axis; empty for the column's title.
        factor: factor from the metric's unit to the title's.
        digits: digits after the decimal point.
        compared: whether rows are compared in this column.
        task: in a table of several tasks, the one that the column is about.
    """

    title: str = MISSING
    metric: str = MISSING
    suite: str = ""
    x: str = ""
    over: list[float] | None = None
    axis: str = ""
    record: bool = False
    factor: float = 1.0
    digits: int = 2
    more_is_better: bool = True
    compared: bool = True
    task: str = ""


@dataclass
class Row:
    """Runs of one config that differ only in the seed.

    Attributes:
        name: in a table of several tasks, :func:`read_table` adds the task to it.
        experiment: empty if nothing is trained.
        overrides: overrides of the experiment.
        begins_from: experiment whose run with the same seed provides the weights that this row's run begins from. At the paper's
            scale, the row's experiment already says so.
        needs: what the row needs. Only the paper's scale and the scales in ``met_at`` have it.
        predictor: the predictor that the numbers come from.
        seeds: empty for the table's seeds.
        seeds_at: scale -> seeds there.
        together: whether the runs are evaluated as one deep ensemble.
        against: name of the row that this one is compared with.
        paper: key of a column -> the paper's mean and, if there is one, its spread.
        x: the row's position in the figure.
        line: name of the line in the figure that joins the row with others of this name.
        task: in a table of several tasks, the row's. Rows that differ only in the task stand in one line.
    """

    name: str = MISSING
    experiment: str = ""
    overrides: list[str] = field(default_factory=list)
    begins_from: str = ""
    needs: str = ""
    met_at: list[str] = field(default_factory=list)
    predictor: str = "single"
    seeds: list[int] = field(default_factory=list)
    seeds_at: dict[str, list[int]] = field(default_factory=dict)
    together: bool = False
    against: str = ""
    paper: dict[str, list[float]] = field(default_factory=dict)
    x: float | None = None
    line: str = ""
    note: str = ""
    task: str = ""

    @property
    def line_name(self) -> str:
        """The name of the row's line, without its task."""
        return without_task(self.name, self.task)

    def suites(self, columns: Mapping[str, Column]) -> list[str]:
        """Returns the suites that evaluate the row's runs. A run measures its own accuracy; a deep ensemble needs a suite."""
        named = (column.suite or "accuracy" for column in columns.values() if column.suite or self.together)
        return list(dict.fromkeys(named))


def of_task(name: str, task: str) -> str:
    """Returns the full name of a row."""
    return f"{name}, {task}" if task else name


def without_task(name: str, task: str) -> str:
    """Undoes :func:`of_task`."""
    return name.removesuffix(f", {task}") if task else name


@dataclass
class Table:
    """A table or a figure.

    Attributes:
        place: its table or figure in the paper.
        seeds: seeds of each row without its own.
        seeds_at: scale -> seeds there; ``SEEDS`` at scales that aren't listed.
        scales: scale -> scale that this table takes instead, such as one with text instead of images.
        against: names of the rows with which those below them of the same task are compared, in addition to their own ``against``.
        figure: title of the x axis; empty if there is no figure.
        files: kind of task -> name of the user's own file that its runs need, given by ``DATA``.
        introduction: text for people who know the table's subject, not the paper. With it the table has a page of its own.
    """

    title: str = MISSING
    place: str = MISSING
    seeds: list[int] = MISSING
    seeds_at: dict[str, list[int]] = field(default_factory=dict)
    columns: dict[str, Column] = MISSING
    rows: list[Row] = MISSING
    notes: list[str] = field(default_factory=list)
    scales: dict[str, str] = field(default_factory=dict)
    against: list[str] = field(default_factory=list)
    figure: str = ""
    files: dict[str, str] = field(default_factory=dict)
    introduction: str = ""

    def scale(self, chosen: str) -> str:
        """Returns the scale that this table takes if the user has chosen ``chosen``. Empty means the paper's scale."""
        return self.scales.get(chosen, chosen)

    def columns_of(self, row: Row) -> dict[str, Column]:
        """Returns the columns that are about the row's task."""
        return {key: column for key, column in self.columns.items() if column.task == row.task}

    def compared_with(self, row: Row) -> list[str]:
        """Returns the names of the rows that a row is compared with. Of the table's ``against`` these are the ones above it."""
        above = [other.name for other in self.rows[: self.rows.index(row)]]
        names = [row.against, *(name for name in (of_task(name, row.task) for name in self.against) if name in above)]
        return [name for name in dict.fromkeys(names) if name]


def seeds_of(table: Table, row: Row, scale: str) -> list[int]:
    """Returns a row's seeds at a scale. Empty means the paper's scale."""
    if scale:
        return row.seeds_at.get(scale) or table.seeds_at.get(scale) or list(SEEDS)
    return row.seeds or table.seeds


UNREADABLE = (OSError, ValueError, YAMLError, OmegaConfBaseException)
"""The errors that :func:`typed` raises."""


def typed(schema: type[Any], path: Path) -> Any:
    """Reads an instance of a dataclass from a YAML file, which must have all required keys.

    Raises:
        OSError, ValueError, yaml.YAMLError, omegaconf.errors.OmegaConfBaseException: the file is not valid.
    """
    merged = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.load(path))
    if lacking := OmegaConf.missing_keys(merged):
        raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
    return OmegaConf.to_object(merged)


def read_table(path: Path) -> Table:
    """Reads a table from its file.

    Raises:
        UserError: the file is not a valid table.
    """
    try:
        table: Table = typed(Table, path)
        for row in table.rows:
            row.name = of_task(row.name, row.task)
            row.against = row.against and of_task(row.against, row.task)
        names = [row.name for row in table.rows]
        if not (names and table.columns):
            raise ValueError("it has no rows or no columns")
        placed, lines = any(row.x is not None for row in table.rows), any(column.x for column in table.columns.values())
        if (placed and not table.figure) or (table.figure and not placed and not lines):
            raise ValueError("a figure needs an x, and a row's x needs a figure")
        for row in table.rows:
            if names.count(row.name) > 1:
                raise ValueError(f"several rows have the name {row.name}")
            if not table.columns_of(row):
                raise ValueError(f"{row.name} has no column of its task")
            if row.against == row.name:
                raise ValueError(f"{row.name} is compared with itself")
            others = [row.against, *(of_task(name, row.task) for name in table.against)]
            if unknown := [name for name in others if name and name not in names]:
                raise ValueError(f"{row.name} is compared with {unknown[0]}, which is not a row")
            if row.together and any(column.x == "epoch" for column in table.columns.values()):
                raise ValueError(f"{row.name} is a deep ensemble, which has no epochs")
            if lacking := row.paper.keys() - table.columns_of(row).keys():
                raise ValueError(f"{row.name} has the paper's number for {', '.join(sorted(lacking))}, which is not a column")
            if not all(1 <= len(numbers) <= 2 for numbers in row.paper.values()):
                raise ValueError(f"the paper's numbers of {row.name} must be [mean] or [mean, spread]")
        return table
    except UNREADABLE as error:
        raise UserError(f"{path} is not a valid table ({first_line(error)}): compare it with the other tables.") from error
