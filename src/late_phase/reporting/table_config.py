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
"""At other scales than the paper's."""


@dataclass
class Column:
    """A number of each row, or, for a figure, several in a line.

    Attributes:
        title: with the unit.
        metric: a key of what predicts, in ``metrics.json`` or in the results of a suite; with ``record`` a key of the
            record itself.
        suite: by which it is evaluated; empty for what the end of a run measures.
        x: if the metric is a line of numbers, what they are over: ``epoch`` of a column of ``history.csv``, or a key beside the
            metric. A table has the line's last number, or with ``mean`` the mean of all.
        axis: title of the y axis where it is another one.
        factor: from the metric's unit to the title's.
        digits: behind the decimal point.
    """

    title: str = MISSING
    metric: str = MISSING
    suite: str = ""
    x: str = ""
    mean: bool = False
    axis: str = ""
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
        begins_from: experiment whose run of the same seed this one's begins from; its file says so for the paper's scale.
        needs: what the row is about, where that is gone at other scales than the paper's but those in ``met_at``.
        predictor: whose numbers these are.
        seeds: empty for the table's; ``seeds_at`` are those at another scale.
        together: whether the runs are evaluated as one deep ensemble.
        against: name of the row that this one is compared with.
        paper: key of a column -> the paper's mean and, if there is one, its spread.
        x: where the row stands in the figure.
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
    note: str = ""

    def suites(self, columns: Mapping[str, Column]) -> list[str]:
        """By which its runs are evaluated; at its end a run has measured the accuracy itself, a deep ensemble hasn't."""
        named = (column.suite or "accuracy" for column in columns.values() if column.suite or self.together)
        return list(dict.fromkeys(named))


@dataclass
class Table:
    """
    Attributes:
        place: in the paper.
        seeds: of each row that doesn't have its own; ``seeds_at`` are those at another scale, or else ``SEEDS``.
        scales: scale -> the one that this table takes instead of it, such as a text instead of images.
        figure: title of the x axis, if this is a figure of the paper, or has one.
    """

    title: str = MISSING
    place: str = MISSING
    seeds: list[int] = MISSING
    seeds_at: dict[str, list[int]] = field(default_factory=dict)
    columns: dict[str, Column] = MISSING
    rows: list[Row] = MISSING
    notes: list[str] = field(default_factory=list)
    scales: dict[str, str] = field(default_factory=dict)
    figure: str = ""

    def scale(self, chosen: str) -> str:
        """The scale that it is made at where this one was chosen, which is empty for the paper's."""
        return self.scales.get(chosen, chosen)


def seeds_of(table: Table, row: Row, scale: str) -> list[int]:
    """A row's seeds at a scale, which is empty for the paper's."""
    if scale:
        return row.seeds_at.get(scale) or table.seeds_at.get(scale) or list(SEEDS)
    return row.seeds or table.seeds


UNREADABLE = (OSError, ValueError, YAMLError, OmegaConfBaseException)
"""What :func:`typed` raises."""


def typed(schema: type[Any], path: Path) -> Any:
    """The instance of a dataclass that a YAML file describes, with all its keys.

    Raises:
        OSError, ValueError, yaml.YAMLError, omegaconf.errors.OmegaConfBaseException: it describes none.
    """
    merged = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.load(path))
    if lacking := OmegaConf.missing_keys(merged):
        raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
    return OmegaConf.to_object(merged)


def read_table(path: Path) -> Table:
    """The table that a file describes.

    Raises:
        UserError: it describes none.
    """
    try:
        table: Table = typed(Table, path)
        names = [row.name for row in table.rows]
        if not (names and table.columns):
            raise ValueError("it has no rows or no columns")
        drawn = any(row.x is not None for row in table.rows) or any(column.x for column in table.columns.values())
        if drawn != bool(table.figure):
            raise ValueError("an x and a figure go together, and one of them is not there")
        for row in table.rows:
            if names.count(row.name) > 1:
                raise ValueError(f"there are several rows of the name {row.name}")
            if row.against and row.against not in names:
                raise ValueError(f"{row.name} is compared with {row.against}, which is no row")
            if row.against == row.name:
                raise ValueError(f"{row.name} is compared with itself")
            if row.together and any(column.x == "epoch" for column in table.columns.values()):
                raise ValueError(f"{row.name} is a deep ensemble, which has no epochs")
            if unknown := row.paper.keys() - table.columns.keys():
                raise ValueError(f"{row.name} has numbers of {', '.join(sorted(unknown))}, which is no column")
            if not all(1 <= len(numbers) <= 2 for numbers in row.paper.values()):
                raise ValueError(f"a number of {row.name} is not [mean] or [mean, spread]")
        return table
    except UNREADABLE as error:
        raise UserError(f"{path} is no table ({first_line(error)}): see its neighbours.") from error
