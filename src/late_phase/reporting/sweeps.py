"""The results of a sweep: a table with a row for each combination of the swept values, and a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from late_phase.reporting.curves import QUANTITIES
from late_phase.reporting.runs import COLUMNS, Run, markdown
from late_phase.reporting.statistics import Summary, mean_and_std

SHOWN = ("test_accuracy", "test_nll", "test_bpc", "test_rmse", "test_r2")
"""Metrics in the table, with a column for each predictor."""


@dataclass(frozen=True)
class Point:
    """A combination of swept values, with its runs, which differ only in the seed.

    Attributes:
        values: key -> value, as the user wrote it; without the seed.
        runs: the finished runs.
        unfinished: seed -> state of the other runs.
    """

    values: dict[str, str]
    runs: list[Run]
    unfinished: dict[int, str]

    @property
    def name(self) -> str:
        return named(self.values)

    def measured(self, predictor: str, metric: str) -> list[float]:
        """Returns a metric of the finished runs; empty if one of them lacks it."""
        found = [run.record["metrics"].get(predictor, {}) for run in self.runs]
        return [metrics[metric] for metrics in found] if all(metric in metrics for metrics in found) else []


def named(values: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


def page(points: Sequence[Point]) -> str:
    """Returns the table, a line on its numbers, and the runs that it lacks."""
    lines = [table(points), "", "On the test set: mean ± sample standard deviation over n seeds."]
    return "\n".join([*lines, *(lacking(point) for point in points if point.unfinished)])


def table(points: Sequence[Point]) -> str:
    """Returns a Markdown table with a row for each point. Its titles have the units."""
    there = {(name, key) for point in points for run in point.runs for name, own in run.record["metrics"].items() for key in own}
    predictors = sorted({name for name, _ in there}, key=lambda name: (name != "single", name))
    columns = [
        (name, title, *column)
        for name in predictors
        for title, column in COLUMNS.items()
        if column[0] in SHOWN and (name, column[0]) in there
    ]
    rows = [[*points[0].values, *(f"{name}: {title.removeprefix('test ')}" for name, title, *_ in columns), "n"]]
    for point in points:
        cells = []
        for name, _, metric, factor, digits in columns:
            values = [factor * value for value in point.measured(name, metric)]
            cells.append(mean_and_std(values, digits) if values else "" if point.runs else "missing")
        n = len(point.runs)
        rows.append([*point.values.values(), *cells, f"{n} of {n + len(point.unfinished)}" if point.unfinished else str(n)])
    return markdown(rows)


def lacking(point: Point) -> str:
    """Returns the unfinished runs of a point with their states, as a line of text."""
    seeds: dict[str, list[str]] = {}
    for seed, state in point.unfinished.items():
        seeds.setdefault(state, []).append(str(seed))
    told = "; ".join(f"seed{'s' * (len(own) > 1)} {', '.join(own)} {state}" for state, own in seeds.items())
    return f"{point.name}: {told}" if point.values else told


def figure(points: Sequence[Point]) -> Figure | None:
    """Draws the single model's mean and sample standard deviation over seeds against the first key with several numbers.

    There is a line for each combination of the other keys. Values of the axis that aren't numbers, such as null, are left out,
    and the axis label names them. Returns None if no key has several numbers, or no run has a single model.
    """
    numbers = {key: {number(point.values[key]) for point in points} - {None} for key in points[0].values}
    axis = next((key for key, found in numbers.items() if len(found) > 1), None)
    quantity = next((q for q in QUANTITIES.values() if any(point.measured("single", q.column) for point in points)), None)
    if axis is None or quantity is None:
        return None
    lines: dict[str, dict[float, Summary]] = {}
    others: dict[str, None] = {}
    for point in points:
        x, values = number(point.values[axis]), point.measured("single", quantity.column)
        if x is None:
            others[point.values[axis]] = None
        elif values:
            label = named({key: value for key, value in point.values.items() if key != axis}) or "single model"
            lines.setdefault(label, {})[x] = Summary.of([quantity.unit * value for value in values])
    title = axis + (f" (without {', '.join(others)})" if others else "")
    return draw(lines, title, quantity.label) if lines else None


def draw(lines: dict[str, dict[float, Summary]], x_label: str, y_label: str) -> Figure:
    """Draws lines, label -> x -> summary, with error bars where the standard deviation is known."""
    columns = 2 if max(map(len, lines)) < 30 else 1  # of the legend
    picture = Figure(figsize=(7, 4 + 0.25 * -(-len(lines) // columns)), layout="constrained")
    axes = picture.subplots()
    for i, (label, line) in enumerate(lines.items()):
        xs = sorted(line)
        means, stds = [line[x].mean for x in xs], [math.nan if line[x].std is None else line[x].std for x in xs]
        style = ("-", "--", ":", "-.")[i // 10 % 4]  # there are ten colours
        bars = axes.errorbar(xs, means, stds, color=f"C{i % 10}", linestyle=style, marker="o", markersize=4, capsize=3, label=label)
        shift = (i - (len(lines) - 1) / 2) * min(5, 30 / len(lines)) / 72  # in inches, so the lines don't hide each other's bars
        for part in bars.get_children():
            part.set_transform(axes.transData + ScaledTranslation(shift, 0, picture.dpi_scale_trans))
    ticks = sorted({x for line in lines.values() for x in line})
    places = np.array(ticks)
    if ticks[0] > 0 and ticks[-1] >= 100 * ticks[0]:  # such as learning rates
        axes.set_xscale("log")
        places = np.log(places)
    if all(np.diff(places) > 0.03 * np.ptp(places)):  # the labels don't overlap
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    spread = any(summary.std is not None for line in lines.values() for summary in line.values())
    title = "mean ± sample standard deviation over seeds" if spread else None
    picture.legend(loc="outside upper center", ncols=columns, title=title)
    axes.grid(alpha=0.3)
    return picture


def number(text: str) -> float | None:
    """Returns a text as a finite number, or None if it isn't one."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
