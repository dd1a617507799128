"""Tables of suites' results for the screen."""

from __future__ import annotations

from typing import Any

from late_phase.reporting.runs import markdown

UNITS = {"accuracy": "%", "ece": "%", "auroc": "%", "aupr": "%", "fpr95": "%", "disagreement": "%", "nll": "nats", "loss": "nats"}
"""Last word of a metric's name, or first word if a dataset's name follows -> unit. Other metrics have no unit."""


def suite_table(record: dict[str, Any]) -> str:
    """Returns a table of a suite's results, with a row for each metric and a column for each predictor."""
    suite, numbers = record["suite"], record["metrics"]
    rows = flatness_rows(numbers) if suite == "flatness" else metric_rows(suite, numbers)
    return f"{suite}, {record['dataset']}\n\n{markdown(rows)}\n"


def metric_rows(suite: str, numbers: dict[str, dict[str, float]]) -> list[list[str]]:
    metrics = list(dict.fromkeys(metric for row in numbers.values() for metric in row))
    rows = [[suite, *numbers]]
    for metric in metrics:
        unit = "%" if suite == "corruption" else unit_of(metric)
        cells = [f"{row[metric] * (100 if unit == '%' else 1):z.4g}" if metric in row else "" for row in numbers.values()]
        rows.append([f"{metric.replace('_', ' ')} ({unit})" if unit else metric.replace("_", " "), *cells])
    return rows


def unit_of(metric: str) -> str:
    words = metric.split("_")
    return UNITS.get(words[-1]) or UNITS.get(words[0], "")


def flatness_rows(numbers: dict[str, dict[str, Any]]) -> list[list[str]]:
    rows = [["flatness: σ_z", *(f"{name}: δL (nats), 95 %" for name in numbers)]]
    first = next(iter(numbers.values()))
    for i, sigma in enumerate(first["sigmas"]):
        rows.append([f"{sigma:zg}", *(f"{own['mean'][i]:z.4g} ± {own['confidence'][i]:z.2g}" for own in numbers.values())])
    return rows
