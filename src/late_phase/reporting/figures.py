"""Figures of the paper, drawn from a table's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from late_phase.reporting.numbers import Numbers
from late_phase.reporting.statistics import Summary
from late_phase.reporting.table_config import Table
from late_phase.support.files import atomic

FORMATS = {"svg": {"metadata": {"Date": None}}, "png": {"dpi": 150}}
"""There is no date, so the same numbers make the same bytes."""


def draw(table: Table, results: Mapping[str, Numbers], path: Path) -> list[Path]:
    """Draws a panel for each column: mean and sample standard deviation over seeds against ``table.figure``.

    If a column's numbers are lines, each row is one line. Otherwise a line joins rows with the same ``line``, each at its ``x``.

    Returns:
        The figure's files, ``path`` with the endings ``.svg`` and ``.png``. Without any numbers it removes these files and
        returns an empty list.
    """
    shown = {
        key: lines for key in table.columns if (lines := {line: own for line, own in lines_of(table, results, key).items() if own})
    }
    files = [path.with_name(f"{path.name}.{ending}") for ending in FORMATS]
    if not shown:
        for file in files:
            file.unlink(missing_ok=True)
        return []
    figure = Figure(figsize=(5.5 * len(shown), 4), layout="constrained")
    for axes, (key, lines) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        panel(axes, lines, table.figure, table.columns[key].axis or table.columns[key].title)
    return save(figure, path)


def save(figure: Figure, path: Path) -> list[Path]:
    """Writes a figure as ``path`` with the ending of each format, and returns the files."""
    import matplotlib as mpl

    files = []
    with mpl.rc_context({"svg.hashsalt": "late-phase"}):
        for ending, options in FORMATS.items():
            files.append(path.with_name(f"{path.name}.{ending}"))
            with atomic(files[-1]) as partial:
                figure.savefig(partial, format=ending, **options)
    return files


def lines_of(table: Table, results: Mapping[str, Numbers], key: str) -> dict[str, dict[float, Summary]]:
    """Returns the lines of a column: name of a line -> x -> summary over seeds."""
    lines: dict[str, dict[float, Summary]] = {}
    for row in table.rows:
        numbers = results[row.name]
        if table.columns[key].x:
            own = list(numbers.lines.get(key, {}).values())
            common = [x for x in own[0] if all(x in line for line in own)] if own else []
            lines[row.name] = {x: Summary.of([line[x] for line in own]) for x in common}
        elif row.x is not None and numbers.values[key]:
            lines.setdefault(row.line, {})[row.x] = Summary.of(list(numbers.values[key].values()))
    return lines


def panel(axes: Axes, lines: Mapping[str, Mapping[float, Summary]], x_title: str, y_title: str) -> None:
    """Draws each line, with its spread where there is more than one seed."""
    for number, (name, points) in enumerate(lines.items()):
        xs = sorted(points)
        means, spreads = [points[x].mean for x in xs], [points[x].std or 0.0 for x in xs]
        marker = "o" if len(xs) < 30 else ""
        seeds = sorted({summary.n for summary in points.values()})
        n = f"n = {seeds[0]}" if len(seeds) == 1 else f"n = {seeds[0]} to {seeds[-1]}"
        axes.plot(xs, means, color=f"C{number}", marker=marker, markersize=4, label=f"{name} ({n})" if name else n)
        low, high = ([mean + sign * std for mean, std in zip(means, spreads, strict=True)] for sign in (-1, 1))
        axes.fill_between(xs, low, high, color=f"C{number}", alpha=0.2, linewidth=0)
    axes.set_xlabel(x_title)
    axes.set_ylabel(y_title)
    axes.grid(alpha=0.3)
    axes.legend()
