"""Reads tables from CSV and Parquet files, and tells numerical columns from categorical ones."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from late_phase.support.errors import UserError, first_line
from late_phase.support.memory import check_memory

MISSING = frozenset({"", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?"})
"""Cells without a value."""

BYTES_IN_MEMORY = 20
"""Bytes of memory for each byte of a file: a short cell is a Python string, and a column is read before it becomes numbers."""

Column = np.ndarray
"""``[rows]``: float64 with nan for missing numbers, or objects, which are texts with ``""`` for missing ones."""


def read(key: str, path: str) -> dict[str, list[str]]:
    """Reads a file with the names of its columns in the first line: name -> cells as texts, ``""`` for missing ones.

    A file that ends in ``.parquet`` is Parquet, any other is CSV in UTF-8, separated by commas, semicolons or tabs.

    Args:
        key: the key of the config that names the file.

    Raises:
        UserError: the file can't be read, is too large for the memory, or has no rows.
    """
    file, what = Path(path), f"{key}={path}"
    try:
        size = file.stat().st_size
        if not file.is_file():  # opening a pipe would wait for a writer
            raise UserError(f"{what} is a directory or a device: give a CSV or Parquet file.")
        check_memory(what, BYTES_IN_MEMORY * size, "give a file with fewer rows or columns.")
        names, rows = (_parquet if file.suffix == ".parquet" else _csv)(what, file)
    except OSError as error:
        raise UserError(f"{what} can't be read ({error.strerror or first_line(error)}): give a CSV or Parquet file.") from error
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{what} has several columns named {twice[0]!r}: rename all but one.")
    if not rows:
        raise UserError(f"{what} has 0 rows: give a file with a line for each example below the names of the columns.")
    cells = zip(*rows, strict=True)
    return {name: ["" if cell in MISSING else cell for cell in own] for name, own in zip(names, cells, strict=True)}


def _csv(what: str, file: Path) -> tuple[list[str], list[Sequence[str]]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        try:
            first = lines.readline()
            lines.seek(0)
            reader = csv.reader(lines, delimiter=max(",;\t", key=first.count), skipinitialspace=True, strict=True)
            names, rows = [name.strip() for name in next(reader, [])], []
            for row in reader:
                if not row:  # an empty line
                    continue
                if len(row) != len(names):
                    raise UserError(f"{what} has {len(row)} cells in line {reader.line_num}, not {len(names)}: correct this line.")
                rows.append([cell.strip() for cell in row])
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{what} is not CSV in UTF-8 ({first_line(error)}): convert it first.") from error
    return names, rows


def _parquet(what: str, file: Path) -> tuple[list[str], list[Sequence[str]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        cure = "run `pip install 'late-phase[parquet]'`, or give a CSV file"
        raise UserError(f"{what} can't be read without the package pyarrow: {cure}.") from error
    try:
        table = parquet.read_table(file)
    except ArrowException as error:
        raise UserError(f"{what} is not a Parquet file ({first_line(error)}): give a CSV or Parquet file.") from error
    columns = [["" if cell is None else str(cell) for cell in column.to_pylist()] for column in table.columns]
    return list(table.column_names), list(zip(*columns, strict=True))


def typed(
    cells: Mapping[str, list[str]], categorical: Collection[str], what: str, cure: str = "name it in dataset.categorical or .ignore"
) -> dict[str, Column]:
    """Returns the columns of a table: numbers where all cells are numbers or missing, texts elsewhere.

    Args:
        categorical: names of the columns whose numbers are names of categories.
        what: the file, for messages.
        cure: what else than a correction cures a column of numbers and texts, for messages.

    Raises:
        UserError: a column has numbers and texts, an infinite number or no value, or a name in ``categorical`` has no column.
    """
    if unknown := [name for name in categorical if name not in cells]:
        raise UserError(f"dataset.categorical names {unknown[0]!r}, which is no column of {what}: it has {', '.join(cells)}.")
    return {name: texts(own) if name in categorical else _typed(name, own, what, cure) for name, own in cells.items()}


def texts(cells: Sequence[str]) -> Column:
    """Returns cells as a column of texts."""
    return np.array(cells, dtype=object)


def _typed(name: str, cells: list[str], what: str, cure: str) -> Column:
    values, row = [], 0
    try:
        for row, cell in enumerate(cells):  # noqa: B007 the row is used below
            values.append(float(cell) if cell else math.nan)
    except ValueError:
        if numbers := sum(map(_is_number, cells)):
            raise UserError(
                f"column {name!r} of {what} has {numbers} numbers and {cells[row]!r} in row {row + 1}: correct it, or {cure}."
            ) from None
        return texts(cells)
    column = np.array(values)
    if np.isinf(column).any():
        row = int(np.isinf(column).argmax())
        raise UserError(f"column {name!r} of {what} has {cells[row]!r} in row {row + 1}: replace it by a finite number.")
    if np.isnan(column).all():
        raise UserError(f"column {name!r} of {what} has no value at all: name it in dataset.ignore.")
    return column


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
