"""The files of a table: Markdown for people, CSV for programs, LaTeX for a paper, and JSON for the page of all results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from late_phase.reporting.figures import draw
from late_phase.reporting.numbers import Numbers, code_of
from late_phase.reporting.statistics import Difference
from late_phase.reporting.table_config import Table
from late_phase.reporting.tables import Said, as_csv, as_latex, as_markdown, as_page, comparisons, runs_of, say
from late_phase.support.files import write_json, write_text

PAPER = "paper"
"""The scale in a record if none was chosen."""

KEYS = {"name", "place", "scale", "changes", "said", "columns", "rows", "comparisons", "runs"}
"""The keys of a record."""


def write(table: Table, results: Mapping[str, Numbers], name: str, to: Path, scale: str, changes: Sequence[str]) -> list[Path]:
    """Writes a table's files below ``to`` and returns their paths.

    The files are ``tables/[SCALE/]NAME.md``, ``.csv``, ``.tex`` and ``.json``. A figure with numbers also has
    ``figures/[SCALE/]NAME.svg`` and ``.png``. At the paper's scale, a table with an introduction also has ``tables_NAME.md``.

    Args:
        scale: empty for the paper's scale.
        changes: see :func:`late_phase.reporting.tables.say`.
    """
    folder, said = to / "tables" / scale, say(table, results, changes)
    texts = {"md": as_markdown(said), "csv": as_csv(table, results), "tex": as_latex(said)}
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(lock := folder / f".{name}.lock"):  # two processes may write the same table
        for suffix, text in texts.items():
            write_text(folder / f"{name}.{suffix}", text)
        drawn = draw(table, results, to / "figures" / scale / name) if table.figure else []
        write_json(folder / f"{name}.json", as_record(table, results, said, name, scale, changes))
        page = [to / f"tables_{name}.md"] if table.introduction and not scale else []
        for path in page:
            write_text(path, as_page(table, said, [file.relative_to(to) for file in drawn]))
        lock.unlink(missing_ok=True)
    return [*(folder / f"{name}.{suffix}" for suffix in (*texts, "json")), *drawn, *page]


def as_record(
    table: Table, results: Mapping[str, Numbers], said: Said, name: str, scale: str, changes: Sequence[str]
) -> dict[str, Any]:
    """Returns the whole table as plain values, for the page of all results."""
    return {
        "name": name,
        "place": table.place,
        "scale": scale or PAPER,
        "changes": list(changes),
        "said": asdict(said),
        "columns": {key: asdict(column) for key, column in table.columns.items()},
        "rows": [
            {
                "name": row.name,
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
                "column": found.key,
                **asdict(found.difference),
            }
            for found in comparisons(table, results)
        ],
        "runs": [
            {key: record.get(key) for key in ("experiment", "variant", "seed", "device", "torch", "seconds", "git_commit")}
            | {"code": code_of(record)}
            for record in runs_of(results)
        ],
    }


def difference_of(comparison: Mapping[str, Any]) -> Difference:
    """Returns the difference in one of a record's comparisons."""
    interval = comparison["interval"]
    return Difference(
        comparison["mean"],
        None if interval is None else tuple(interval),
        comparison["p"],
        tuple(comparison["n"]),
        comparison["paired"],
    )
