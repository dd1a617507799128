"""The page of all results as Markdown, for reading in the repository."""

from __future__ import annotations

from collections.abc import Sequence

from late_phase.reporting.page import OTHERS, RULES, Judged, Made, Page
from late_phase.reporting.runs import markdown
from late_phase.reporting.table_files import PAPER

INTRODUCTION = (
    "Columns named *paper* have the paper's numbers, and TabM's in the tables of a tabular ensemble. All other numbers come from "
    "runs of this repository. `make page` generates this page and its browser version, [index.html](index.html), from the "
    "tables' files. Nothing here is written by hand."
)


def as_markdown(page: Page) -> str:
    lines = ["# Results", "", INTRODUCTION, "", "## What the paper claims, and what we found", "", *_claims(page)]
    for scale in page.scales:
        lines += [f"## {scale.title}", "", scale.what, "", *(f"* {line}" for line in scale.ran), ""]
        for table in scale.tables:
            lines += _table(table)
        if scale.missing:
            lines += ["### What is missing", "", *(f"* {places}: {reason}." for places, reason in scale.missing.items()), ""]
    if page.own:
        lines += ["## Beyond the paper", ""]
        for table in page.own:
            lines += _table(table)
    if page.others:
        lines += ["## Other results", "", OTHERS, ""]
        lines += [*(f"* [{title}]({folder}/README.md)" for folder, title in page.others.items()), ""]
    text, rows = page.faithfulness
    lines += ["## Faithfulness", "", text, "", *_folded(f"{len(rows) - 1} points", [markdown(rows)])]
    return "\n".join(lines).rstrip() + "\n"


def summary(page: Page) -> list[str]:
    """Returns a line for each scale: how many claims have which verdict."""
    lines = []
    if PAPER not in [scale.name for scale in page.scales]:
        lines.append("**The paper's scale**: no claim is tested, as no table has numbers yet.")
    for scale in page.scales:
        counted = ", ".join(f"{number} {verdict}" for verdict, number in page.counts(scale.name).items() if number)
        lines.append(f"**{scale.title}**: {counted}.")
    return lines


def _claims(page: Page) -> list[str]:
    number = sum(map(len, page.topics.values()))
    lines = [f"{number} claims.", "", *(f"* {line}" for line in summary(page)), "", RULES, ""]
    for topic, claims in page.topics.items():
        titles = ["claim", "tested by", "the paper's difference", *(scale.title for scale in page.scales)]
        lines += [f"### {topic}", "", markdown([titles, *(_row(claim, page) for claim in claims)]), ""]
    return lines


def _row(claim: Judged, page: Page) -> list[str]:
    return [claim.sentence, f"{claim.place}: {claim.test}", claim.paper, *claim_findings(claim, page)]


def claim_findings(claim: Judged, page: Page) -> list[str]:
    """Returns a cell for each scale, with the claim's verdict and why."""
    cells = []
    for scale in page.scales:
        found = claim.findings[scale.name]
        verdict = found.verdict if found.verdict == "not tested" else f"**{found.verdict}**"
        cells.append(f"{verdict}: {found.text}")
    return cells


def _table(table: Made) -> list[str]:
    said = table.said
    lines = [f"### {said.heading}", "", *([said.changes, ""] if said.changes else []), markdown(said.cells), ""]
    if table.figure:
        lines += [f"![{said.heading}]({table.figure})", ""]
    if said.findings:
        title = f"Differences: {table.counted}" if table.counted else "Differences"
        lines += _folded(title, [f"* {line}" for line in said.findings])
    notes = [f"* {line}" for line in said.notes]
    files = " ".join(f"[{ending}]({table.file}.{ending})" for ending in ("md", "csv", "tex", "json"))
    return lines + _folded("Notes", [*notes, f"* The table as {files}."])


def _folded(title: str, lines: Sequence[str]) -> list[str]:
    return ["<details>", f"<summary>{title}</summary>", "", *lines, "", "</details>", ""]
