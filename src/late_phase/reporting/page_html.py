"""The page of all results as one HTML file, which needs no other file and no network."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from late_phase.reporting.page import OTHERS, RULES, Judged, Made, Page, Scale
from late_phase.reporting.page_style import SCRIPT, STYLE
from late_phase.reporting.table_files import PAPER

TITLE = "Late-phase weights: what we measured"
INTRODUCTION = (
    "A reproduction of <em>Neural Networks with Late-Phase Weights</em> (von Oswald, Kobayashi, Sacramento, Meulemans, Henning and "
    "Grewe, ICLR 2021). Every verdict is computed from runs of this repository; the paper's numbers stand beside ours."
)
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""Forbids the browser to load anything else."""


def as_html(page: Page) -> str:
    places = {"claims": "Claims", **{f"scale-{scale.name}": scale.title for scale in page.scales}}
    places |= {"own": "Beyond the paper"} if page.own else {}
    places |= {"others": "Other results"} if page.others else {}
    links = "".join(f'<a href="#{_safe(to)}">{_safe(name)}</a>' for to, name in {**places, "faithfulness": "Faithfulness"}.items())
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">'
        f"<title>{TITLE}</title><style>{STYLE}</style>"
    )
    parts = [
        f"<h1>{TITLE}</h1>",
        f"<p>{INTRODUCTION}</p>",
        f"<nav>{links}</nav>",
        *_claims(page),
        *(part for scale in page.scales for part in _scale(scale, page.folder)),
    ]
    if page.own:
        parts += ['<h2 id="own">Beyond the paper</h2>', *(_table(table, page.folder) for table in page.own)]
    if page.others:
        items = (f'<li><a href="{_safe(folder)}/README.md">{_inline(title)}</a></li>' for folder, title in page.others.items())
        parts += ['<h2 id="others">Other results</h2>', f'<p class="soft">{_inline(OTHERS)}</p><ul>{"".join(items)}</ul>']
    text, rows = page.faithfulness
    parts += [
        '<h2 id="faithfulness">Faithfulness</h2>',
        f"<p>{_inline(text)}</p>",
        _folded(f"{len(rows) - 1} points", _box(rows, "data text"), wide=True),
    ]
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n<script>{SCRIPT}</script>\n</body>\n</html>\n'


WIDE = ' class="wide"'


def _safe(text: str) -> str:
    return html.escape(text)


def _inline(text: str) -> str:
    """Converts a line of Markdown. Our texts use only code and bold words."""
    return re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", re.sub(r"`([^`]+)`", r"<code>\1</code>", _safe(text)))


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{_inline(line)}</li>' for line in lines)}</ul>"


def _folded(title: str, content: str, wide: bool = False) -> str:
    return f"<details{WIDE if wide else ''}><summary>{_safe(title)}</summary>{content}</details>"


def _box(rows: Sequence[Sequence[str]], kind: str = "data") -> str:
    """Returns a table within its own box, which scrolls sideways."""
    titles, *others = rows
    classes = ["theirs" if title.startswith("paper: ") else "" for title in titles]
    head = "".join(f'<th scope="col"><button>{_inline(title) or "row"}</button></th>' for title in titles)
    body = []
    for name, *cells in others:
        own = "".join(f"<td{_class(cell, known)}>{_inline(cell)}</td>" for cell, known in zip(cells, classes[1:], strict=True))
        body.append(f'<tr><th scope="row">{_inline(name)}</th>{own}</tr>')
    return f'<div class="box"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _class(cell: str, known: str) -> str:
    kind = "none" if cell in ("missing", "failed", "–") else known
    return f' class="{kind}"' if kind else ""


def _claims(page: Page) -> list[str]:
    number = sum(map(len, page.topics.values()))
    parts = [f'<h2 id="claims">{number} claims of the paper</h2>']
    if PAPER not in [scale.name for scale in page.scales]:
        parts.append("<p>At the paper's scale, no table has numbers yet, so no claim is tested there.</p>")
    if page.scales:
        parts.append(f'<div class="totals">{"".join(_total(page, scale) for scale in page.scales)}</div>')
    parts.append(_folded("How a claim is judged", f"<p>{_inline(RULES)}</p>"))
    return [*parts, *(_topic(topic, claims, page) for topic, claims in page.topics.items())]


def _total(page: Page, scale: Scale) -> str:
    """Returns one line for a scale: how many claims have which verdict."""
    counts = {verdict: number for verdict, number in page.counts(scale.name).items() if number}
    bar = "".join(f'<i class="{_kind(verdict)}" style="flex: {number}"></i>' for verdict, number in counts.items())
    told = ", ".join(f'<span class="{_kind(verdict)}">{number} {verdict}</span>' for verdict, number in counts.items())
    link = f'<a href="#scale-{_safe(scale.name)}">{_safe(scale.title)}</a>'
    what = f'<span class="small">{_inline(scale.what)}</span>'
    return f'<div class="total">{link}<span class="bar">{bar}</span><span>{told}</span>{what}</div>'


def _kind(verdict: str) -> str:
    return verdict.replace(" ", "-")


def _topic(topic: str, claims: Sequence[Judged], page: Page) -> str:
    columns = f'<col><col class="their">{"<col>" * len(page.scales)}'
    titles = (topic, "The paper's difference", *(scale.title for scale in page.scales))
    head = "".join(f'<th scope="col">{_safe(title)}</th>' for title in titles)
    rows = "".join(f"<tr>{_claim(claim, page)}</tr>" for claim in claims)
    return f'<table class="claims"><colgroup>{columns}</colgroup><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _claim(claim: Judged, page: Page) -> str:
    cells = [f'<th scope="row">{_safe(claim.sentence)}<span class="small">{_safe(f"{claim.place}: {claim.test}")}</span></th>']
    cells.append(f'<td data-scale="In the paper"><span class="their">{_safe(claim.paper)}</span></td>')
    for scale in page.scales:
        found = claim.findings[scale.name]
        chip = f'<span class="chip {_kind(found.verdict)}">{found.verdict}</span>'
        cells.append(f'<td data-scale="{_safe(scale.title)}">{chip}<span class="small">{_safe(found.text)}</span></td>')
    return "".join(cells)


def _scale(scale: Scale, folder: Path) -> list[str]:
    links = (f'<a href="#{_safe(table.file)}">{_safe(table.record["place"])}</a>' for table in scale.tables)
    parts = [f'<h2 id="scale-{_safe(scale.name)}">{_safe(scale.title)}</h2>', f"<p>{_inline(scale.what)}</p>"]
    parts += [f'<p class="soft">{_inline(line)}</p>' for line in scale.ran]
    parts += [f"<nav>{''.join(links)}</nav>", *(_table(table, folder) for table in scale.tables)]
    if scale.missing:
        missing = _list(f"{places}: {reason}." for places, reason in scale.missing.items())
        parts.append(f'<h3>What is missing</h3><div class="soft">{missing}</div>')
    return parts


def _table(table: Made, folder: Path) -> str:
    parts = [f'<h3 id="{_safe(table.file)}">{_safe(table.said.heading)}</h3>', _box(table.said.cells)]
    if table.figure:
        picture = base64.b64encode((folder / table.figure).read_bytes()).decode()
        parts.append(f'<img src="data:image/svg+xml;base64,{picture}" alt="{_safe(table.said.heading)}">')
    if table.said.findings:
        title = f"Differences: {table.counted}" if table.counted else "Differences"
        parts.append(_folded(title, _list(table.said.findings)))
    files = ", ".join(f'<a href="{_safe(table.file)}.{ending}">{ending}</a>' for ending in ("md", "csv", "tex", "json"))
    changes = [table.said.changes] if table.said.changes else []
    parts.append(_folded("Notes", f"{_list([*changes, *table.said.notes])}<p>The table as {files}.</p>"))
    return "".join(parts)
