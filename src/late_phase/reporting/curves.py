"""Curves over epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from late_phase.reporting.runs import Run, by_name


def plot_accuracy(runs: Sequence[Run], paths: Sequence[Path]) -> None:
    """Test accuracy of the single model against the epoch: mean and range over seeds, with T0 marked; to files of any format.

    The first epochs would flatten the rest, so the axis starts at the accuracy that nine tenths of the epochs reach.
    """
    groups = by_name([run for run in runs if run.history])
    columns = 2 if max(map(len, groups)) < 30 else 1  # of the legend
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(7, 4 + 0.25 * rows), layout="constrained")
    axes = figure.subplots()
    lowest = []
    for number, (name, group) in enumerate(groups.items()):
        color = f"C{number}"
        measured = [[row for row in run.history if row["test_accuracy"]] for run in group]
        epochs = [int(row["epoch"]) for row in measured[0]]
        accuracy = 100 * np.array([[float(row["test_accuracy"]) for row in rows] for rows in measured])
        label = f"{name} ({len(group)} seed{'s' if len(group) > 1 else ''})"
        axes.plot(epochs, accuracy.mean(0), color=color, label=label)
        axes.fill_between(epochs, accuracy.min(0), accuracy.max(0), color=color, alpha=0.2, linewidth=0)
        lowest.append(np.quantile(accuracy, 0.1))
        if group[0].T0 is not None:
            axes.axvline(group[0].T0, color=color, linestyle="--", linewidth=1)
            axes.annotate(
                "$T_0$", (group[0].T0, 0.02), xycoords=("data", "axes fraction"), xytext=(4, 0), textcoords="offset points"
            )
    axes.set_ylim(min(lowest), min(axes.get_ylim()[1], 100.2))
    axes.set_xlim(left=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel("test accuracy of the single model (%)")
    figure.legend(loc="outside upper center", ncols=columns)
    axes.grid(alpha=0.3)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
