"""The content of the page of all results, read from the tables' files, the configs and CONTRIBUTING.md."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from late_phase.reporting.claims import VERDICTS, Claim, Finding, judge, read_claims
from late_phase.reporting.statistics import outcome
from late_phase.reporting.table_config import Table, read_table
from late_phase.reporting.table_files import KEYS, PAPER, difference_of
from late_phase.reporting.tables import Said, of_paper, provenance
from late_phase.support.errors import UserError

RULES = (
    "Each claim compares two rows of a table, seed by seed where the rows share seeds. It is **reproduced** if p < 0.05 in the "
    "paper's direction, **contradicted** if p < 0.05 in the other direction, and **within noise** otherwise: more seeds may "
    "decide it. If the paper says that something makes next to no difference, the 95 % interval of the difference must stay "
    "within a stated bound. Each verdict holds only at its own scale. If all of 40 claims were false, chance alone would "
    "still mark one as reproduced, on average."
)
"""The rules of :func:`late_phase.reporting.claims.judge`, for readers of the page."""

OTHERS = (
    "Each folder has a page. Folders with runs also hold each run's `config.yaml`, `history.csv` and `metrics.json`, which has the "
    "commit, the device and the version of torch. `python scripts/report.py results/FOLDER --to results/FOLDER` makes their table "
    "and curves from these files. ± is the sample standard deviation over n seeds."
)


@dataclass(frozen=True)
class Made:
    """A table, read from its files.

    Attributes:
        file: path of its Markdown file below the folder of results, without the ending.
        said: the table's texts.
        counted: how many of its comparisons have which outcome.
        figure: path of its picture below the folder of results; empty if there is none.
        record: from :func:`late_phase.reporting.table_files.as_record`.
    """

    file: str
    said: Said
    counted: str
    figure: str
    record: dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """The tables of one scale.

    Attributes:
        name: as in ``configs/scale``, or :data:`PAPER`.
        what: what the scale uses instead of the paper's networks and data.
        tables: the tables that have numbers.
        ran: number of runs, their hardware and their training time. A run in several tables counts once.
        missing: table or tables -> why they are incomplete.
    """

    name: str
    what: str
    tables: list[Made]
    ran: list[str]
    missing: dict[str, str]

    @property
    def title(self) -> str:
        return "The paper's scale" if self.name == PAPER else f"Scale {self.name}"


@dataclass(frozen=True)
class Judged:
    """A claim and its verdicts.

    Attributes:
        place: where the paper makes the claim.
        test: the rows and the column that test it.
        paper: the paper's difference between the rows.
        findings: scale -> what our runs say.
    """

    sentence: str
    place: str
    test: str
    paper: str
    findings: dict[str, Finding]


@dataclass(frozen=True)
class Page:
    """The page of all results.

    Attributes:
        topics: title -> the claims under it.
        scales: the scales with results, or only the paper's if there are no results.
        own: tables that are not in the paper.
        others: folders with other kinds of results -> their first headings.
        faithfulness: what the paper leaves open and what we do: a text, and the rows of a table.
        folder: folder of the results.
    """

    topics: dict[str, list[Judged]]
    scales: list[Scale]
    own: list[Made]
    others: dict[str, str]
    faithfulness: tuple[str, list[list[str]]]
    folder: Path

    def counts(self, scale: str) -> dict[str, int]:
        """Counts the claims with each verdict at a scale."""
        found = Counter(claim.findings[scale].verdict for own in self.topics.values() for claim in own)
        return {verdict: found[verdict] for verdict in VERDICTS}


def read_page(results: Path, root: Path) -> Page:
    """Reads the page of the results in a folder.

    Args:
        root: root of the repository, which has the configs and CONTRIBUTING.md.

    Raises:
        UserError: the folder doesn't exist, or one of its files, a claim or a table is not valid.
    """
    if not results.is_dir():
        raise UserError(f"there is no folder {results}: make a table first, such as with make table3 SCALE=digits.")
    tables = {path.stem: read_table(path) for path in sorted((root / "configs" / "table").glob("*.yaml"))}
    claims = read_claims(root / "configs" / "claims.yaml", tables)
    made: dict[str, dict[str, Made]] = {}
    own = []
    for path in sorted(results.glob("tables/**/*.json")):
        table = _read_table(path, results)
        name, of_scale = table.record["name"], made.setdefault(table.record["scale"], {})
        if _order(table.record["place"]) is None:
            own.append(table)
        elif name in of_scale:
            raise UserError(f"{path} and {results / of_scale[name].file}.json hold the same table at the same scale: delete one.")
        else:
            of_scale[name] = table
    known = [*claims.scales, *sorted(made.keys() - claims.scales.keys())]
    scales = [_scale(name, claims.scales.get(name, ""), made[name], tables) for name in known if made.get(name)]
    scales = [scale for scale in scales if scale.tables] or [_scale(PAPER, claims.scales.get(PAPER, ""), {}, tables)]
    tested = {scale.name: made.get(scale.name, {}) for scale in scales}
    topics = {topic.title: [_judged(claim, tables[claim.table], tested) for claim in topic.claims] for topic in claims.topics}
    return Page(
        topics,
        scales,
        [table for table in own if _has_numbers(table.record)],
        {path.parent.name: _first_heading(path) for path in sorted(results.glob("*/README.md"))},
        read_faithfulness(root / "CONTRIBUTING.md"),
        results,
    )


def _read_table(path: Path, results: Path) -> Made:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if lacking := KEYS - record.keys():
            raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
        figure = Path("figures", path.relative_to(results / "tables")).with_suffix(".svg")
        return Made(
            file=path.relative_to(results).with_suffix("").as_posix(),
            said=Said(**record["said"]),
            counted=_counted(record),
            figure=figure.as_posix() if (results / figure).exists() else "",
            record=record,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a valid table ({error}): make it again, or delete it.") from error


def pipe_table(lines: Sequence[str]) -> list[list[str]]:
    """Returns the cells of the Markdown table in ``lines``. Its first row has the titles."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines if line.startswith("|")]
    return rows[:1] + rows[2:]


def _counted(record: Mapping[str, Any]) -> str:
    """Counts a table's comparisons by outcome."""
    columns = record["columns"]
    found = Counter(outcome(difference_of(own), columns[own["column"]]["more_is_better"]) for own in record["comparisons"])
    return ", ".join(f"{found[word]} {word}" for word in ("better", "worse", "within noise", "no test") if found[word])


def _has_numbers(record: Mapping[str, Any]) -> bool:
    return any(values for row in record["rows"] for values in row["values"].values())


def _order(place: str) -> tuple[bool, int] | None:
    """Returns a key that sorts the paper's tables before its figures, by number; None for anything else."""
    found = re.fullmatch(r"(Table|Figure) (\d+)", place)
    return found and (found[1] == "Figure", int(found[2]))


def _scale(name: str, what: str, made: Mapping[str, Made], tables: Mapping[str, Table]) -> Scale:
    shown = sorted((own for own in made.values() if _has_numbers(own.record)), key=lambda own: _order(own.record["place"]))
    runs = [run for own in shown for run in own.record["runs"]]
    missing: dict[str, list[str]] = {}
    for key, table in sorted(tables.items(), key=lambda item: _order(item[1].place) or (True, 0)):
        if _order(table.place) and (reason := _lacks(made[key].record if key in made else None)):
            missing.setdefault(reason, []).append(table.place)
    distinct = {json.dumps(run, sort_keys=True): run for run in runs}  # tables share runs
    ran = provenance([*distinct.values()])
    return Scale(name, what, shown, ran, {", ".join(places): reason for reason, places in missing.items()})


def _lacks(record: Mapping[str, Any] | None) -> str:
    """Returns why a table is incomplete; empty if it is complete."""
    if record is None:
        return "not made"
    if not _has_numbers(record):
        without = [row["without"].rstrip(".") for row in record["rows"] if row["without"]]
        impossible = [reason for row in record["rows"] for reason in row["impossible"].values()]
        return "; ".join(dict.fromkeys([*without, *impossible])) or "no run is finished"
    left = [
        row
        for row in record["rows"]
        if not row["without"]
        and any(len(values) < row["wanted"] for key, values in row["values"].items() if key not in row["impossible"])
    ]
    return f"{len(left)} of {len(record['rows'])} rows lack seeds" if left else ""


def _judged(claim: Claim, table: Table, made: Mapping[str, Mapping[str, Made]]) -> Judged:
    rows, column = {row.name: row for row in table.rows}, table.columns[claim.column]
    published, _ = of_paper(*(rows[name].paper.get(claim.column) for name in (claim.row, claim.against)))
    test = f"{claim.row} against {claim.against}, {column.title}"
    paper = "–" if published is None else f"{published:+z.{column.digits}f}"
    findings = {scale: judge(claim, own[claim.table].record if claim.table in own else None) for scale, own in made.items()}
    return Judged(claim.sentence, f"{claim.place}, {table.place}", test, paper, findings)


def _first_heading(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            return line.lstrip("# ")
    raise UserError(f"{path} has no heading: add one, such as # Title.")


def read_faithfulness(path: Path) -> tuple[str, list[list[str]]]:
    """Reads the text and the table below the heading Faithfulness.

    Raises:
        UserError: the heading is missing.
    """
    _, heading, rest = path.read_text(encoding="utf-8").partition("\n## Faithfulness\n")
    if not heading:
        raise UserError(f"{path} has no section ## Faithfulness: add one.")
    lines = rest.partition("\n## ")[0].splitlines()
    return " ".join(line for line in lines if line and not line.startswith("|")), pipe_table(lines)
