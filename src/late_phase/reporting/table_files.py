"""The files that a table is written to: for people, for programs, for a paper, and for the page of all results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from late_phase.reporting.figures import draw
from late_phase.reporting.numbers import Numbers, code_of
from late_phase.reporting.table_config import Table
from late_phase.reporting.tables import as_csv, as_latex, as_markdown, comparisons, notes, runs_of
from late_phase.support.files import write_json, write_text


def write(table: Table, results: Mapping[str, Numbers], name: str, to: Path, scale: str, changes: Sequence[str]) -> list[Path]:
    """Writes ``tables/[SCALE/]NAME.md``, ``.csv``, ``.tex`` and ``.json`` below ``to``, and if there is a figure, and there are
    numbers for it, ``figures/[SCALE/]NAME.svg`` and ``.png``. Returns their paths.

    Args:
        changes: see :func:`late_phase.reporting.tables.as_markdown`.
    """
    folder = to / "tables" / scale
    texts = {"md": as_markdown(table, results, changes), "csv": as_csv(table, results), "tex": as_latex(table, results)}
    for suffix, text in texts.items():
        write_text(folder / f"{name}.{suffix}", text)
    write_json(folder / f"{name}.json", as_record(table, results, name, scale, changes))
    files = [folder / f"{name}.{suffix}" for suffix in (*texts, "json")]
    if table.figure and any(values for numbers in results.values() for values in numbers.values.values()):
        files += draw(table, results, to / "figures" / scale / name)
    return files


def as_record(table: Table, results: Mapping[str, Numbers], name: str, scale: str, changes: Sequence[str]) -> dict[str, Any]:
    """All of a table as plain values: what the page of all results is made of."""
    return {
        "name": name,
        "place": table.place,
        "title": table.title,
        "scale": scale or "paper",
        "changes": list(changes),
        "columns": {key: asdict(column) for key, column in table.columns.items()},
        "rows": [
            {
                "name": row.name,
                "paper": row.paper,
                "values": {key: list(values.values()) for key, values in results[row.name].values.items()},
                "wanted": results[row.name].wanted,
                "without": results[row.name].without,
                "failed": results[row.name].failed,
                "impossible": results[row.name].impossible,
            }
            for row in table.rows
        ],
        "comparisons": [
            {
                "row": found.row,
                "against": found.against,
                "column": next(key for key, column in table.columns.items() if column is found.column),
                "text": found.in_words(),
                **asdict(found.difference),
                "paper": found.paper,
                "seeds": found.seeds,
            }
            for found in comparisons(table, results)
        ],
        "notes": notes(table, results),
        "runs": [
            {key: record.get(key) for key in ("experiment", "variant", "seed", "device", "torch", "seconds", "git_commit")}
            | {"code": code_of(record)}
            for record in runs_of(results)
        ],
    }
