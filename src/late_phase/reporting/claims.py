"""The paper's claims, ``configs/claims.yaml``, and what our runs say about them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from late_phase.reporting.statistics import Difference, verdict
from late_phase.reporting.table_config import UNREADABLE, Table, typed
from late_phase.reporting.table_files import difference_of
from late_phase.support.errors import UserError, first_line

VERDICTS = ("reproduced", "within noise", "contradicted", "not tested")
"""A claim's verdicts at a scale: p < 0.05 in the paper's direction; p ≥ 0.05; p < 0.05 in the other direction; no p."""

SAME = ("+scale=", "dataset=image_folder", "dataset.root=")
"""Overrides under which a table's runs still test its claims: the scale, and where the images come from."""

DIRECTIONS = ("better", "worse", "not better", "not worse")


@dataclass
class Claim:
    """A sentence of the paper, and the comparison that tests it: ``row`` − ``against`` in a column of a table.

    Attributes:
        place: where the paper makes the claim, in addition to the table.
        table: name of a file in ``configs/table``.
        direction: what the paper says about ``row``, one of :data:`DIRECTIONS`.
        within: bound of the difference where the direction is ``not better`` or ``not worse``, as a share of the mean of
            ``against``.
    """

    sentence: str = MISSING
    place: str = MISSING
    table: str = MISSING
    row: str = MISSING
    against: str = MISSING
    column: str = MISSING
    direction: str = MISSING
    within: float = 0.0


@dataclass
class Topic:
    """Several claims about one subject."""

    title: str = MISSING
    claims: list[Claim] = MISSING


@dataclass
class Claims:
    """All claims, by topic.

    Attributes:
        scales: scale -> what it uses instead of the paper's networks and data.
    """

    scales: dict[str, str] = field(default_factory=dict)
    topics: list[Topic] = MISSING

    def all(self) -> list[Claim]:
        return [claim for topic in self.topics for claim in topic.claims]


@dataclass(frozen=True)
class Finding:
    """What our runs say about a claim at a scale.

    Attributes:
        verdict: one of :data:`VERDICTS`.
        text: the difference with its p or interval, or why the claim is not tested.
    """

    verdict: str
    text: str


def read_claims(path: Path, tables: Mapping[str, Table]) -> Claims:
    """Reads a file of claims and checks that a comparison in ``tables`` tests each of them.

    Raises:
        UserError: the file is not a valid file of claims, or no table makes the comparison that a claim needs.
    """
    try:
        claims: Claims = typed(Claims, path)
        for claim in claims.all():
            if wrong := _wrong_with(claim, tables):
                raise ValueError(f'"{claim.sentence}" {wrong}')
        return claims
    except UNREADABLE as error:
        raise UserError(f"{path} can't be used ({first_line(error)}): correct it, or the table in configs/table.") from error


def _wrong_with(claim: Claim, tables: Mapping[str, Table]) -> str:
    if claim.table not in tables:
        return f"needs the table {claim.table}, which configs/table lacks"
    table = tables[claim.table]
    if not any((row.name, row.against) == (claim.row, claim.against) for row in table.rows):
        return f"needs {claim.row} against {claim.against}, which {claim.table} doesn't compare"
    if claim.column not in table.columns:
        return f"needs {claim.column}, which is no column of {claim.table}"
    if claim.direction not in DIRECTIONS:
        return f"has the direction {claim.direction}, which must be one of {', '.join(DIRECTIONS)}"
    if (claim.within > 0) != claim.direction.startswith("not "):
        return "needs within above 0 if its direction is not better or not worse, and no within otherwise"
    return ""


def judge(claim: Claim, record: Mapping[str, Any] | None) -> Finding:
    """Judges a claim by a table.

    Args:
        record: from :func:`late_phase.reporting.table_files.as_record`; None if the table has not been made.
    """
    compared = (claim.row, claim.against, claim.column)
    comparisons = () if record is None else record["comparisons"]
    found = next((own for own in comparisons if (own["row"], own["against"], own["column"]) == compared), None)
    if found is None:
        return Finding("not tested", _why_not(claim, record))
    if changes := [own for own in record["changes"] if not own.startswith(SAME)]:
        return Finding("not tested", f"the table's runs use {' '.join(changes)}")
    rows = {row["name"]: row for row in record["rows"]}
    for row in (rows[claim.row], rows[claim.against]):
        if (number := len(row["values"][claim.column])) < row["wanted"]:  # early looks make false findings more likely
            return Finding("not tested", f"so far n = {number} of {row['wanted']}")
    column, digits = record["columns"][claim.column], record["columns"][claim.column]["digits"]
    difference = difference_of(found)
    words = verdict(difference, column["more_is_better"])
    if difference.p is None:
        return Finding("not tested", words)
    bound = claim.within * abs(statistics.mean(rows[claim.against]["values"][claim.column]))
    told = f"{difference.mean:+z.{digits}f}, {words.partition(' (')[2].removesuffix(')')}"
    if claim.within and difference.interval:
        low, high = difference.interval
        told = f"{difference.mean:+z.{digits}f} (95 %: {low:+z.{digits}f} to {high:+z.{digits}f}; the bound is {bound:.{digits}f})"
    seeds = f"{difference.n[0]}" if difference.paired else f"{difference.n[0]} and {difference.n[1]}"
    return Finding(_side(claim.direction, difference, bound, column["more_is_better"]), f"{told}, n = {seeds}")


def _side(direction: str, difference: Difference, bound: float, more_is_better: bool) -> str:
    """Decides by the side of the bound on which the whole 95 % interval lies. With a bound of 0 this means p < 0.05."""
    if difference.interval is None:  # no spread, and no difference
        return "within noise"
    low, high = difference.interval
    upwards = more_is_better == (direction in ("better", "not worse"))
    limit = -bound if upwards else bound
    if low <= limit <= high:
        return "within noise"
    return "reproduced" if (low > limit) == upwards else "contradicted"


def _why_not(claim: Claim, record: Mapping[str, Any] | None) -> str:
    if record is None:
        return "not run"
    rows = {row["name"]: row for row in record["rows"]}
    own = [rows[name] for name in (claim.row, claim.against) if name in rows]
    if len(own) < 2 or claim.column not in record["columns"]:
        return "the table is older than this claim: make the table again"
    if any(row["without"] or claim.column in row["impossible"] for row in own):
        return "not possible at this scale"
    return "a run failed" if any(row["failed"] for row in own) else "not run"
