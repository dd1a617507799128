"""The generated parts of README and docs: what stands between ``<!-- NAME: SUBJECT -->`` and ``<!-- end of NAME -->``."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import compress
from pathlib import Path

from late_phase.reporting.page import Page, pipe_table
from late_phase.reporting.page_markdown import claim_findings
from late_phase.reporting.runs import find_runs, markdown, table
from late_phase.support.errors import UserError

BLOCK = re.compile(r"(<!-- (\w+): ([^\n]*?) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)

CARDS = Path("docs", "methods")


def documentation(page: Page, root: Path) -> dict[Path, str]:
    """Returns each page of ``root`` that has generated parts, with these parts up to date: path -> text.

    There are three kinds of parts. ``claims: TOPIC`` shows what our runs say about the claims of a topic. ``methods: FOLDER`` lists
    the pages of methods, with their accuracies in the runs of FOLDER. ``runs: EXPERIMENT ...`` shows results of experiments in
    ``results/methods``.

    Raises:
        UserError: a part has an unknown name or subject.
    """
    makers: dict[str, Callable[[str], str]] = {
        "claims": lambda topic: claims(page, topic),
        "methods": lambda folder: methods(root, root / folder),
        "runs": lambda experiments: runs(root / "results" / "methods", experiments.split()),
    }
    found = {}
    for path in (root / "README.md", *sorted((root / CARDS).glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        if BLOCK.search(text):
            found[path] = filled(text, makers, path)
    return found


def filled(text: str, makers: dict[str, Callable[[str], str]], path: Path) -> str:
    """Returns ``text`` with the lines of each part made again by ``makers[NAME](SUBJECT)``.

    Args:
        path: names the page in errors.

    Raises:
        UserError: no maker has the name.
    """

    def made(found: re.Match[str]) -> str:
        begin, name, subject, end = found.groups()
        if name not in makers:
            raise UserError(f"{path} has a generated part {name!r}, which is unknown: choose one of {', '.join(makers)}.")
        return f"{begin}\n{makers[name](subject)}\n\n{end}"

    return BLOCK.sub(made, text)


def claims(page: Page, topic: str) -> str:
    """Returns a Markdown table of a topic's claims, with a column for each scale that tests any of them."""
    if topic not in page.topics:
        raise UserError(f"there are no claims about {topic!r}: choose one of {', '.join(page.topics)}.")
    judged = page.topics[topic]
    tested = [any(claim.findings[scale.name].verdict != "not tested" for claim in judged) for scale in page.scales]
    rows = [["claim of the paper", "the paper", *compress((f"ours, scale {scale.name}" for scale in page.scales), tested)]]
    rows += [[claim.sentence, claim.paper, *compress(claim_findings(claim, page), tested)] for claim in judged]
    return markdown(rows)


def runs(folder: Path, experiments: list[str]) -> str:
    return table(find_runs(folder / experiment for experiment in experiments))


def methods(root: Path, folder: Path) -> str:
    """Returns a Markdown table with a row for each page in ``docs/methods``."""
    rows = [["method", "choose it", "predictor: test accuracy (%) on the digits", "source"]]
    for path in sorted((root / CARDS).glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if path.name == "README.md":
            continue
        written, _, _ = text.partition("<!--")
        title, facts = written.partition("\n")[0].removeprefix("# "), dict(pipe_table(written.splitlines())[1:])
        ours = ""
        if part := BLOCK.search(text):
            # The last experiment of a page is the method's own; the first is what it is compared with.
            lines = pipe_table(table(find_runs([folder / part[3].split()[-1]])).splitlines())
            named = ((name.partition("deep ensemble"), predictor, accuracy) for name, predictor, accuracy, *_ in lines[1:])
            ours = ", ".join(f"{''.join(name[1:])} {predictor}: {accuracy}".strip() for name, predictor, accuracy in named)
        rows.append([f"[{title}]({path.name})", facts["choose it"], ours, facts["source"]])
    return markdown(rows)
