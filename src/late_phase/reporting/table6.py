"""The paper's Table 6 from finished runs: bits per character of language models."""

from __future__ import annotations

from collections.abc import Sequence

from late_phase.reporting.runs import Run, by_name, markdown, mean_and_std
from late_phase.support.errors import UserError

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
    """A Markdown table: the last weights, which of members are the average, then the members' ensemble, then SWA.

    Deep ensembles, which the paper's table has not, are left out.

    Raises:
        UserError: there are several variants of a row.
    """
    rows = [["Model", *COLUMNS, "n"]]
    for key, row in ROWS.items():
        own = [run for run in runs if run.record["experiment"].endswith(f"_lstm_{key}") and run.history]
        if len(names := by_name(own)) > 1:
            raise UserError(f"there are several variants of a row ({', '.join(names)}): give the runs of one of them.")
        if own:
            metrics = [run.record["metrics"] for run in own]
            cells = [
                mean_and_std([m[predictor][metric] for m in metrics], 3) if all(predictor in m for m in metrics) else ""
                for predictor, metric in COLUMNS.values()
            ]
            rows.append([row, *cells, str(len(own))])
    return markdown(rows)
