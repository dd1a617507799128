"""The paper's Table 6 from finished runs: bits per character of language models."""

from __future__ import annotations

from collections.abc import Sequence

from late_phase.reporting.runs import Run, by_name, markdown, mean_and_std

ROWS = {"base": "Base", "rank1": "Base + Rank1", "lprank1": "Late-phase Rank1"}
"""Last word of an experiment's name -> row of the table, in its order."""

COLUMNS = {
    "Train": ("single", "train_bpc"),
    "Validation": ("single", "validation_bpc"),
    "Test": ("single", "test_bpc"),
    "Test (ensemble)": ("ensemble", "test_bpc"),
    "Test (SWA)": ("swa", "test_bpc"),
}
"""Column -> predictor and its metric. The paper has Train, Test and Test (SWA)."""


def table6(runs: Sequence[Run]) -> str:
    """A Markdown table: the last weights, which of members are the average, then the members' ensemble, then SWA."""
    groups = {name.partition(" ")[0].rpartition("_")[2]: group for name, group in by_name(runs).items()}
    rows = [["Model", *COLUMNS, "n"]]
    for key, row in ROWS.items():
        metrics = [run.record["metrics"] for run in groups.get(key, ())]
        if metrics:
            cells = [
                mean_and_std([m[predictor][metric] for m in metrics], 3) if all(predictor in m for m in metrics) else ""
                for predictor, metric in COLUMNS.values()
            ]
            rows.append([row, *cells, str(len(metrics))])
    return markdown(rows)
