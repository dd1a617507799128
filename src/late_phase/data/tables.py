"""Tables: rows with named columns, one of which is the target. They come from files, from scikit-learn or from OpenML."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from late_phase.data.table_files import Column, read, typed
from late_phase.support.errors import UserError, first_line
from late_phase.support.seeding import generator

MOST_CLASSES = 20
"""A target of whole numbers is a class if it has at most so many different ones."""


@dataclass(frozen=True)
class Rows:
    """Rows of a table: ``columns`` by name, each ``[rows]``, and ``targets`` ``[rows]``, float64 or, for classes, int64."""

    columns: dict[str, Column]
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: np.ndarray) -> Rows:
        return Rows({name: column[indices] for name, column in self.columns.items()}, self.targets[indices])


@dataclass(frozen=True)
class Split:
    """A table in parts. ``train`` is None for evaluation only, ``validation`` if there is none.

    Attributes:
        target: name of the target's column.
        classes: names of the classes; None for a regression.
        sha256: checksum of the whole table in hexadecimal digits.
    """

    name: str
    target: str
    classes: tuple[str, ...] | None
    train: Rows | None
    validation: Rows | None
    test: Rows
    sha256: str

    def held_out(self) -> dict[str, Rows]:
        """Returns the parts that the model isn't trained on, by name."""
        return {"test": self.test} | ({} if self.validation is None else {"validation": self.validation})

    def parts(self) -> dict[str, Rows]:
        """Returns all parts, by name."""
        return ({} if self.train is None else {"train": self.train}) | self.held_out()


@dataclass(frozen=True)
class Table:
    """A whole table.

    Attributes:
        target, classes: see :class:`Split`.
        rows: all rows.
        given: part -> the indices of its rows, for parts that have files of their own.
    """

    name: str
    target: str
    classes: tuple[str, ...] | None
    rows: Rows
    given: dict[str, np.ndarray] = field(default_factory=dict)

    def in_words(self) -> str:
        """Returns the amount of data in words."""
        task = "a regression" if self.classes is None else f"{len(self.classes)} classes"
        return f"{len(self.rows):,} rows, {len(self.rows.columns)} columns, {task} of {self.target}"

    def sha256(self) -> str:
        total = hashlib.sha256(self.target.encode())
        for name, column in (*self.rows.columns.items(), ("", self.rows.targets)):
            content = "\0".join(column).encode(errors="surrogatepass") if column.dtype == object else column.tobytes()
            total.update(name.encode(errors="surrogatepass") + b"\0" + content)
        return total.hexdigest()

    def split(self, validation: float, test: float, subset: int | None, test_subset: int | None, seed: int) -> Split:
        """Splits the rows at random into parts, except for parts that have files of their own.

        Args:
            validation, test: shares of the rows. They don't count for parts with files of their own. 0 for no validation part.
            subset: number of training rows that are kept; None for all.
            test_subset: number of rows of each other part that are kept; None for all.

        Raises:
            UserError: a part would have no rows or fewer than should be kept, or a class has no training row.
        """
        others = np.concatenate(list(self.given.values())) if self.given else np.empty(0, dtype=np.int64)
        left = np.setdiff1d(np.arange(len(self.rows)), others)
        left = left[torch.randperm(len(left), generator=generator(seed, "table")).numpy()]
        shares = {"test": test, "validation": validation}
        ends = np.cumsum([0 if part in self.given else round(share * len(left)) for part, share in shares.items()])
        drawn = dict(zip((*shares, "train"), np.split(left, ends), strict=True)) | self.given
        parts: dict[str, Rows | None] = {}
        for part, indices in drawn.items():
            key, kept = ("subset", subset) if part == "train" else ("test_subset", test_subset)
            if part == "validation" and not len(indices):
                parts[part] = None
                continue
            if not len(indices):
                raise UserError(
                    f"the {len(self.rows)} rows of {self.name} leave none for the {part} part: give more rows, or change "
                    "dataset.test."
                )
            if kept is not None and kept > len(indices):
                raise UserError(f"dataset.{key}={kept} is out of range for {self.name}: choose from 1 to {len(indices)}.")
            parts[part] = self.rows.take(indices[:kept])
        if self.classes is not None:
            counts = np.bincount(parts["train"].targets, minlength=len(self.classes))
            if not counts.all():
                raise UserError(
                    f"class {self.classes[int(counts.argmin())]!r} of {self.target} has no training row in {self.name}: add rows, "
                    "remove the class, or choose another dataset.split_seed."
                )
        return Split(self.name, self.target, self.classes, parts["train"], parts["validation"], parts["test"], self.sha256())


def load_file(
    path: str,
    target: str,
    validation_path: str | None = None,
    test_path: str | None = None,
    objective: str = "auto",
    categorical: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Table:
    """Loads a table from a CSV or Parquet file, or its parts from several files.

    Args:
        target: name of the target's column.
        validation_path, test_path: files with the rows of these parts; None if they are rows of ``path``.
        objective: one of ``late_phase.data.OBJECTIVES``. ``auto`` is a classification for texts, and for at most
            ``MOST_CLASSES`` different whole numbers, and a regression for other numbers.
        categorical: columns whose numbers are names of categories.
        ignore: columns to leave out.

    Raises:
        UserError: a file can't be used, a column is absent, or the target doesn't fit the objective.
    """
    files = {"train": ("dataset.path", path), "validation": ("dataset.validation_path", validation_path)}
    files["test"] = ("dataset.test_path", test_path)
    cells: dict[str, list[str]] = {}
    given: dict[str, np.ndarray] = {}
    for part, (key, file) in files.items():
        if file is None:
            continue
        own = read(key, file)
        for name in [target, *ignore, *cells]:
            if name not in own and (part == "train" or name not in ignore):
                named = "target" if name == target else "ignore" if name in ignore else "path"
                raise UserError(f"dataset.{named} needs a column {name!r}, which {key}={file} lacks: it has {', '.join(own)}.")
        first = len(cells.get(target, ()))
        if part != "train":
            given[part] = np.arange(first, first + len(own[target]))
        cells = {name: [*cells.get(name, ()), *own[name]] for name in cells or own if name not in ignore}
    what = f"dataset.path={path}"
    columns = typed({name: column for name, column in cells.items() if name != target}, categorical, what)
    classes, targets = target_of(target, cells[target], objective, what)
    return Table(Path(path).stem, target, classes, Rows(columns, targets), given)


def target_of(name: str, cells: list[str], objective: str, what: str) -> tuple[tuple[str, ...] | None, np.ndarray]:
    """Returns the names of the classes, None for a regression, and the targets.

    Raises:
        UserError: a target is missing, a regression's target is a text or always the same, or there are fewer than two classes.
    """
    if "" in cells:
        raise UserError(f"column {name!r}, the target, of {what} has no value in row {cells.index('') + 1}: remove this row.")
    column = (
        None if objective == "classification" else typed({name: cells}, (), what, "choose dataset.objective=classification")[name]
    )
    if objective == "regression" and column.dtype == object:
        raise UserError(
            f"column {name!r}, the target, of {what} has texts such as {cells[0]!r}: choose dataset.objective=classification."
        )
    if objective == "auto":
        whole = column.dtype != object and (column == np.floor(column)).all() and len(np.unique(column)) <= MOST_CLASSES
        objective = "classification" if column.dtype == object or whole else "regression"
    if objective == "regression":
        if (column == column[0]).all():
            raise UserError(f"column {name!r}, the target, of {what} is always {column[0]:g}: choose another dataset.target.")
        return None, column
    classes = sorted(set(cells), key=_in_order)
    if len(classes) < 2:
        raise UserError(f"column {name!r}, the target, of {what} is always {classes[0]!r}: choose another dataset.target.")
    places = {label: place for place, label in enumerate(classes)}
    return tuple(classes), np.array([places[cell] for cell in cells], dtype=np.int64)


def _in_order(text: str) -> tuple[float, str]:
    """Sorts numbers by their values, before all texts."""
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text


def load_embedded(name: str) -> Table:
    """Loads ``breast_cancer`` or ``diabetes``, which come with scikit-learn."""
    from sklearn import datasets  # slow to import

    return _of_bunch(name, getattr(datasets, f"load_{name}")())


def load_california_housing(root: str) -> Table:
    """Loads the 20,640 districts of California, whose target is the median house value in units of 100,000 dollars.

    scikit-learn downloads them into ``root`` if they aren't there.

    Raises:
        UserError: they are absent and can't be downloaded.
    """
    from sklearn.datasets import fetch_california_housing

    found = _fetched("california_housing", root, lambda: fetch_california_housing(data_home=root))
    return _of_bunch("california_housing", found)


def load_openml(root: str, data_id: int, target: str | None = None, objective: str = "auto") -> Table:
    """Loads a dataset of OpenML by its number. scikit-learn downloads it into ``root`` if it isn't there.

    Args:
        target: name of the target's column; None for OpenML's default target.
        objective: see :func:`load_file`.

    Raises:
        UserError: it is absent and can't be downloaded, or has no single target.
    """
    from sklearn.datasets import fetch_openml

    # Without pandas, scikit-learn returns categories as numbers, with their names beside them.
    options = {"data_home": root, "as_frame": False, "parser": "liac-arff"} | ({} if target is None else {"target_column": target})
    try:
        found = _fetched(f"number {data_id} of OpenML", root, lambda: fetch_openml(data_id=data_id, **options))
    except ValueError as error:
        raise UserError(
            f"dataset.data_id={data_id} can't be used ({first_line(error)}): choose another dataset or target."
        ) from error
    if found.target is None or len(found.target_names) != 1:
        raise UserError(f"dataset.data_id={data_id} has no single target: choose its column with dataset.target.")
    cells = {name: _cells(found, name, found.data[:, place]) for place, name in enumerate(found.feature_names)}
    what, name = f"dataset.data_id={data_id}", found.target_names[0]
    columns = typed(cells, [name for name in cells if name in found.categories], what)
    classes, targets = target_of(name, [_cell(value) for value in found.target], objective, what)
    return Table(found.details["name"], name, classes, Rows(columns, targets))


def _cells(found: Any, name: str, values: np.ndarray) -> list[str]:
    categories = found.categories.get(name)
    if categories is None:
        return [_cell(value) for value in values]
    return ["" if value is None or value != value else categories[int(value)] for value in values]


def _cell(value: Any) -> str:
    return "" if value is None or value != value else str(value)


def _fetched(what: str, root: str, fetch: Callable[[], Any]) -> Any:
    """Calls one of scikit-learn's loaders.

    Raises:
        UserError: the files are absent and can't be downloaded, or are damaged.
        ValueError: there is no such dataset or column.
    """
    try:
        return fetch()
    except (OSError, EOFError) as error:  # URLError is an OSError
        raise UserError(
            f"dataset.root={root} lacks {what}, and scikit-learn can't download it ({first_line(error)}): run this once with a "
            "network, or copy the folder from a machine that has one."
        ) from error


def _of_bunch(name: str, found: Mapping[str, Any]) -> Table:
    columns = {str(column): values.astype(np.float64) for column, values in zip(found.feature_names, found.data.T, strict=True)}
    target = str(getattr(found, "target_names", ["target"])[0])
    if found.target.dtype.kind in "iu":
        return Table(name, "class", tuple(map(str, found.target_names)), Rows(columns, found.target.astype(np.int64)))
    return Table(name, target, None, Rows(columns, found.target.astype(np.float64)))
