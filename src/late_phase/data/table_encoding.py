"""How the rows of a table become the inputs of a model, fitted on the training rows alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from late_phase.data.table_files import Column
from late_phase.data.tables import Rows, Split
from late_phase.support.errors import UserError

MOST_QUANTILES, ROWS_PER_QUANTILE, FEWEST_QUANTILES = 1000, 30, 10
"""As in TabM's experiments: a quantile for every 30 training rows, from 10 to 1,000 quantiles."""


@dataclass(frozen=True)
class TableEncoding:
    """The encoding of a table's rows. Inputs are the scaled numbers, a 1 for each missing number, and one-hot categories.

    ``quantile`` scaling makes each number standard normal by its rank among the training rows, ``standard`` scaling gives it mean 0
    and standard deviation 1. A missing number becomes 0, the middle. If the training rows of its column have missing numbers, a
    further input tells which are missing. A missing category is a category of its own.

    Attributes:
        scaling: ``quantile`` or ``standard``.
        numbers: names of the numerical columns.
        statistics: what scikit-learn's transformer of ``scaling`` has fitted, by its attribute: ``[columns]`` or, for
            ``quantiles_``, ``[quantiles, columns]``.
        missing: names of the numerical columns with an input for missing numbers.
        categories: name of a categorical column -> its categories among the training rows.
        unseen: what happens to other categories: ``refuse``, or ``zeros``, which leaves all inputs of the column 0.
        target: name of the target.
        classes: names of the classes; None for a regression.
        mean, std: of the training targets of a regression; 0 and 1 for a classification.
    """

    scaling: str
    numbers: list[str]
    statistics: dict[str, list]
    missing: list[str]
    categories: dict[str, list[str]]
    unseen: str
    target: str
    classes: list[str] | None
    mean: float
    std: float

    @classmethod
    def of(cls, split: Split, scaling: str, unseen: str) -> TableEncoding:
        """Fits the encoding to the training rows. A column that is constant among them is left out, and a line on stderr says so.

        Raises:
            UserError: all columns are constant, or a column has about as many categories as rows.
        """
        rows = split.train
        constant = [name for name, column in rows.columns.items() if is_constant(column)]
        if len(constant) == len(rows.columns):
            raise UserError(f"all columns of {split.name} but the target are constant in its training rows: add others.")
        if constant:
            print(f"{split.name}: left out, as they are constant in the training rows: {', '.join(constant)}.", file=sys.stderr)
        columns = {name: column for name, column in rows.columns.items() if name not in constant}
        categories = {name: sorted(set(column)) for name, column in columns.items() if column.dtype == object}
        for name, own in categories.items():
            if len(own) > max(MOST_QUANTILES, len(rows) // 2):
                raise UserError(
                    f"column {name!r} of {split.name} has {len(own)} categories in {len(rows)} training rows: name it in "
                    "dataset.ignore."
                )
        numbers = [name for name in columns if name not in categories]
        values = np.stack([columns[name] for name in numbers], 1) if numbers else np.empty((len(rows), 0))
        regression = split.classes is None
        return cls(
            scaling,
            numbers,
            fitted(scaling, values) if numbers else {},
            [name for name in numbers if np.isnan(columns[name]).any()],
            categories,
            unseen,
            split.target,
            None if regression else list(split.classes),
            float(rows.targets.mean()) if regression else 0.0,
            (float(rows.targets.std()) or 1.0) if regression else 1.0,
        )

    @property
    def inputs(self) -> int:
        """The number of inputs of a model."""
        return len(self.numbers) + len(self.missing) + sum(map(len, self.categories.values()))

    @property
    def outputs(self) -> int:
        """The number of outputs of a model: one for each class, or 1 for a regression."""
        return 1 if self.classes is None else len(self.classes)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TableEncoding:
        return cls(**json.loads(text))

    def __call__(self, columns: Mapping[str, Column], what: str = "the table") -> Tensor:
        """Encodes columns by name: ``[rows, inputs]`` float32 on the CPU.

        Args:
            what: the table, for messages.

        Raises:
            UserError: a column is absent or of the other kind, or has a category that the training rows don't have.
        """
        for name in (*self.numbers, *self.categories):
            if name not in columns:
                raise UserError(f"{what} lacks the column {name!r} that the model knows: it has {', '.join(columns)}.")
            if (columns[name].dtype == object) != (name in self.categories):
                kinds = ("texts", "numbers") if name in self.numbers else ("numbers", "categories")
                raise UserError(
                    f"column {name!r} of {what} has {kinds[0]} where the model knows {kinds[1]}: correct it, or set "
                    "dataset.categorical as in training."
                )
        parts = []
        if self.numbers:
            values = np.stack([columns[name] for name in self.numbers], 1)
            parts.append(np.nan_to_num(self._transformer().transform(values)))
            parts += [np.isnan(columns[name])[:, None] for name in self.missing]
        parts += [self._one_hot(name, columns[name], what) for name in self.categories]
        return torch.from_numpy(np.concatenate(parts, 1).astype(np.float32))

    def encode(self, rows: Rows, what: str) -> tuple[Tensor, Tensor]:
        """Returns the inputs ``[rows, inputs]`` and the targets ``[rows]``: labels int64, or standardized numbers float32."""
        targets = torch.from_numpy(rows.targets)
        return self(rows.columns, what), targets if self.classes is not None else ((targets - self.mean) / self.std).float()

    def _transformer(self) -> Any:
        transformer = new_transformer(self.scaling)
        for name, values in self.statistics.items():
            setattr(transformer, name, np.array(values))
        transformer.n_features_in_ = len(self.numbers)
        return transformer

    def _one_hot(self, name: str, column: Column, what: str) -> np.ndarray:
        known = np.array(self.categories[name], dtype=object)
        places = np.searchsorted(known, column).clip(max=len(known) - 1)
        unseen = known[places] != column
        if unseen.any() and self.unseen == "refuse":
            raise UserError(
                f"column {name!r} of {what} has the category {column[unseen][0]!r}, which no training row has: correct it, or set "
                "dataset.unseen=zeros."
            )
        one_hot = np.zeros((len(column), len(known)), dtype=np.float32)
        one_hot[np.flatnonzero(~unseen), places[~unseen]] = 1
        return one_hot


def is_constant(column: Column) -> bool:
    """Tells whether all values of a column are the same. Being missing is a value, too."""
    if column.dtype == object:
        return len(set(column)) < 2
    return len(np.unique(column)) < 2  # counts all nan as one


def new_transformer(scaling: str, quantiles: int = FEWEST_QUANTILES) -> Any:
    """Returns scikit-learn's transformer, not yet fitted. Only fitting uses the number of quantiles."""
    from sklearn.preprocessing import QuantileTransformer, StandardScaler  # slow to import

    if scaling == "standard":
        return StandardScaler()
    # All rows count, and none is drawn at random.
    return QuantileTransformer(n_quantiles=quantiles, output_distribution="normal", subsample=None)


def fitted(scaling: str, values: np.ndarray) -> dict[str, list]:
    """Fits scikit-learn's transformer to ``[rows, columns]``, and returns the attributes that transforming needs."""
    quantiles = min(len(values), max(FEWEST_QUANTILES, min(MOST_QUANTILES, len(values) // ROWS_PER_QUANTILE)))
    transformer = new_transformer(scaling, quantiles).fit(values)
    names = ("mean_", "scale_") if scaling == "standard" else ("quantiles_", "references_")
    return {name: getattr(transformer, name).tolist() for name in names}
