"""What is on the page of all results: read from the tables' files, and from what the repository says of them."""

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
    "A claim is one comparison of two rows of a table, seed by seed where they have seeds in common. It is **reproduced** where "
    "p < 0.05 as the paper says, **contradicted** where p < 0.05 the other way, and **within noise** where neither is so: more "
    "seeds may tell. Where the paper says that something makes next to no difference, the 95 % interval of the difference has to "
    "keep within a bound that is stated. All of this holds at the scale that it stands under, no other. Of 40 claims that are "
    "wrong, chance alone reproduces one."
)
"""How :func:`late_phase.reporting.claims.judge` judges."""

OTHERS = (
    "Each folder has a page. Those with runs have their `config.yaml`, `history.csv` and `metrics.json` (with the commit, the "
    "device and the version of torch), and the table and curves that `python scripts/report.py results/FOLDER --to results/FOLDER` "
    "makes of them. ± is the sample standard deviation over n seeds."
)


@dataclass(frozen=True)
class Made:
    """A table as its files have it.

    Attributes:
        file: its Markdown file, below the folder of results, without the ending.
        said: what it says.
        counted: how often rows differ which way.
        figure: its picture, below the folder of results; empty if there is none.
        record: of :func:`late_phase.reporting.table_files.as_record`.
    """

    file: str
    said: Said
    counted: str
    figure: str
    record: dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """
    Attributes:
        name: as in ``configs/scale``, or :data:`PAPER`.
        what: stands for the paper's networks and data.
        tables: those that have numbers.
        ran: how many runs there are, on which hardware, and how long they took; a run in several tables counts once.
        missing: table or tables -> why they are not whole.
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
    """A claim: where the paper makes it, which rows of which table test it, the paper's difference between them, and what our runs
    say at each scale."""

    sentence: str
    place: str
    test: str
    paper: str
    findings: dict[str, Finding]


@dataclass(frozen=True)
class Page:
    """
    Attributes:
        topics: title -> the claims under it.
        scales: those with results; without any the paper's.
        own: tables that are not the paper's.
        others: folders with results of other kinds -> their first headings.
        faithfulness: what the paper leaves open, and what we do: a text, and the rows of a table.
        folder: of the results.
    """

    topics: dict[str, list[Judged]]
    scales: list[Scale]
    own: list[Made]
    others: dict[str, str]
    faithfulness: tuple[str, list[list[str]]]
    folder: Path

    def counts(self, scale: str) -> dict[str, int]:
        """Verdict -> how many claims have it at a scale."""
        found = Counter(claim.findings[scale].verdict for own in self.topics.values() for claim in own)
        return {verdict: found[verdict] for verdict in VERDICTS}


def read_page(results: Path, root: Path) -> Page:
    """The page of the results in a folder.

    Args:
        root: of the repository, for its configs and its CONTRIBUTING.md.

    Raises:
        UserError: there is no such folder, or a file in it, a claim or a table is not what it should be.
    """
    if not results.is_dir():
        raise UserError(f"there is no folder {results}: make a table first, by make table3 SCALE=digits.")
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
            raise UserError(f"{path} and {results / of_scale[name].file}.json are of the same table and scale: delete one.")
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
        raise UserError(f"{path} is no table ({error}): make it anew, or delete it.") from error


def pipe_table(lines: Sequence[str]) -> list[list[str]]:
    """The cells of a Markdown table's lines, among others; the first row has the titles."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines if line.startswith("|")]
    return rows[:1] + rows[2:]


def _counted(record: Mapping[str, Any]) -> str:
    """How many of a table's comparisons go which way."""
    columns = record["columns"]
    found = Counter(outcome(difference_of(own), columns[own["column"]]["more_is_better"]) for own in record["comparisons"])
    return ", ".join(f"{found[word]} {word}" for word in ("better", "worse", "within noise", "no test") if found[word])


def _has_numbers(record: Mapping[str, Any]) -> bool:
    return any(values for row in record["rows"] for values in row["values"].values())


def _order(place: str) -> tuple[bool, int] | None:
    """Tables of the paper before its figures, by number; None for what is none of the paper's."""
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
    """Why a table is not whole; empty if it is."""
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
    raise UserError(f"{path} has no heading: give it one, # and a title.")


def read_faithfulness(path: Path) -> tuple[str, list[list[str]]]:
    """The text and the table below the heading Faithfulness.

    Raises:
        UserError: there is no such heading.
    """
    _, heading, rest = path.read_text(encoding="utf-8").partition("\n## Faithfulness\n")
    if not heading:
        raise UserError(f"{path} has no section Faithfulness: write one.")
    lines = rest.partition("\n## ")[0].splitlines()
    return " ".join(line for line in lines if line and not line.startswith("|")), pipe_table(lines)
