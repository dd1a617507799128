"""Curves over epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from late_phase.reporting.runs import Run, by_name
from late_phase.support.files import atomic


@dataclass(frozen=True)
class Quantity:
    """A column of ``history.csv``: the label of its axis, the factor to the label's unit, and whether more is better."""

    column: str
    label: str
    unit: float
    more_is_better: bool


QUANTITIES = {
    "accuracy": Quantity("test_accuracy", "test accuracy of the single model (%)", 100, True),
    "rmse": Quantity("test_rmse", "test RMSE of the single model, in the target's unit", 1, False),
    "bpc": Quantity("test_bpc", "test bits per character of the single model", 1, False),
}


def plot_curves(runs: Sequence[Run], folder: Path) -> None:
    """Draws a picture ``<quantity>.png`` for each quantity that runs have measured."""
    for name, quantity in QUANTITIES.items():
        measured = [run for run in runs if run.history and quantity.column in run.history[0]]
        if measured:
            plot(measured, quantity, folder / f"{name}.png")


def plot(runs: Sequence[Run], quantity: Quantity, path: Path) -> None:
    """Draws a quantity of the single model against the epoch: mean and range over seeds, with T0 marked.

    The first epochs would flatten the rest. So the axis ends at the value that nine tenths of the epochs reach.
    """
    groups = by_name(runs)
    labels = {group[0].record["experiment"]: group for group in groups.values()}
    if len(labels) < len(groups):  # only the full names, which may be long, tell variants apart
        labels = groups
    columns = 2 if max(map(len, labels)) < 30 else 1  # of the legend
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(7, 4 + 0.25 * rows), layout="constrained")
    axes = figure.subplots()
    worst = []
    for number, (name, group) in enumerate(labels.items()):
        color = f"C{number}"
        measured = [
            {int(row["epoch"]): float(row[quantity.column]) for row in run.history if row[quantity.column]} for run in group
        ]
        epochs = [epoch for epoch in measured[0] if all(epoch in own for own in measured)]
        values = quantity.unit * np.array([[own[epoch] for epoch in epochs] for own in measured])
        label = f"{name} ({len(group)} seed{'s' if len(group) > 1 else ''})"
        axes.plot(epochs, values.mean(0), color=color, label=label)
        axes.fill_between(epochs, values.min(0), values.max(0), color=color, alpha=0.2, linewidth=0)
        worst.append(np.quantile(values, 0.1 if quantity.more_is_better else 0.9))
        if group[0].T0 is not None:
            axes.axvline(group[0].T0, color=color, linestyle="--", linewidth=1)
            axes.annotate(
                "$T_0$", (group[0].T0, 0.02), xycoords=("data", "axes fraction"), xytext=(4, 0), textcoords="offset points"
            )
    if quantity.more_is_better:
        axes.set_ylim(min(worst), min(axes.get_ylim()[1], 1.002 * quantity.unit))
    else:
        axes.set_ylim(top=max(worst))
    axes.set_xlim(left=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel(quantity.label)
    figure.legend(loc="outside upper center", ncols=columns)
    axes.grid(alpha=0.3)
    with atomic(path) as partial:
        figure.savefig(partial, format="png", dpi=150)
