"""The page of all results: verdicts on claims, and what a browser makes of it."""

from __future__ import annotations

import json
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import browser
import pytest
from conftest import ROOT
from omegaconf import OmegaConf
from scipy.stats import ttest_rel

from late_phase.reporting.claims import VERDICTS, Claim, judge, read_claims
from late_phase.reporting.numbers import Numbers
from late_phase.reporting.page import read_page
from late_phase.reporting.page_html import as_html
from late_phase.reporting.page_markdown import as_markdown
from late_phase.reporting.table_config import Column, Row, Table, read_table
from late_phase.reporting.table_files import as_record, write
from late_phase.reporting.tables import say
from late_phase.support.errors import UserError

BASE = {0: 70.0, 1: 71.0, 2: 72.0, 3: 73.0}
UP = {0: 71.3, 1: 71.8, 2: 72.9, 3: 74.6}
DOWN = {0: 68.7, 1: 70.2, 2: 71.1, 3: 71.4}
NOISE = {0: 70.5, 1: 70.6, 2: 72.3, 3: 72.7}
LONG = "A row of a very long name that would make a small window too wide"
TABLE = Table(
    title="A table",
    place="Table 1",
    seeds=[0, 1, 2, 3],
    columns={"accuracy": Column("test accuracy (%)", "test_accuracy"), "loss": Column("loss", "loss", more_is_better=False)},
    rows=[
        Row("Base", "a", paper={"accuracy": [81.35, 0.16]}),
        Row("Late", "b", against="Base", paper={"accuracy": [98.76, 0.15]}),
        Row("<script>alert(1)</script> & `x`", "c", against="Base", note="a <b>note</b>"),
        Row(LONG, "d"),
    ],
    notes=["The last <i>note</i>."],
)
CLAIM = Claim("Late is better.", "Section 1", "table1", "Late", "Base", "accuracy", "better")


def numbers(accuracy: dict[int, float], **others: Any) -> Numbers:
    """Of a row; the second column has the same values."""
    records = [
        {"experiment": "a", "variant": str(accuracy), "seed": seed, "device": "cpu", "seconds": 3600.0, "git_commit": "0" * 40}
        for seed in accuracy
    ]
    return Numbers({"accuracy": accuracy, "loss": accuracy}, records, 4, 4, **others)


def results_of(late: Numbers, base: Numbers | None = None) -> dict[str, Numbers]:
    return dict(zip((row.name for row in TABLE.rows), [base or numbers(BASE), late, numbers({0: 9.5}), numbers({})], strict=True))


def judged(claim: Claim, late: Numbers, base: Numbers | None = None) -> tuple[str, str]:
    results = results_of(late, base)
    found = judge(claim, json.loads(json.dumps(as_record(TABLE, results, say(TABLE, results), "table1", "digits", []))))
    return found.verdict, found.text


@pytest.mark.parametrize(
    ("direction", "column", "late", "verdict"),
    [
        ("better", "accuracy", UP, "reproduced"),
        ("better", "accuracy", DOWN, "contradicted"),
        ("better", "accuracy", NOISE, "within noise"),
        ("better", "loss", UP, "contradicted"),
        ("better", "loss", DOWN, "reproduced"),
        ("worse", "accuracy", UP, "contradicted"),
        ("worse", "accuracy", DOWN, "reproduced"),
        ("worse", "loss", UP, "reproduced"),
        ("worse", "loss", NOISE, "within noise"),
        ("better", "accuracy", BASE, "within noise"),
    ],
)
def test_a_claim_is_reproduced_only_where_p_says_so_in_its_direction(direction, column, late, verdict):
    found, text = judged(replace(CLAIM, direction=direction, column=column), numbers(late))
    assert found == verdict
    p = ttest_rel(list(late.values()), list(BASE.values())).pvalue if late != BASE else 1.0
    difference = sum(late.values()) / 4 - sum(BASE.values()) / 4
    assert text.startswith(f"{difference:+.2f}, p = ") and text.endswith(", n = 4")
    assert float(re.search(r"p = ([\d.]+)", text)[1]) == pytest.approx(p, rel=0.05)


def test_verdicts_are_those_of_an_independent_test():
    generator = random.Random(0)
    seen = set()
    for _ in range(200):
        late = {seed: value + generator.gauss(generator.choice([-1.0, 0.0, 1.0]), 0.7) for seed, value in BASE.items()}
        test = ttest_rel(list(late.values()), list(BASE.values()))
        expected = "within noise" if test.pvalue >= 0.05 else "reproduced" if test.statistic > 0 else "contradicted"
        assert judged(CLAIM, numbers(late))[0] == expected
        seen.add(expected)
    assert seen == set(VERDICTS[:3])


@pytest.mark.parametrize(
    ("direction", "shift", "verdict"),
    [
        ("not worse", 0.0, "reproduced"),
        ("not worse", 5.0, "reproduced"),  # better, even
        ("not worse", -0.7, "within noise"),  # the bound is 0.72
        ("not worse", -1.5, "contradicted"),
        ("not better", 0.0, "reproduced"),
        ("not better", -5.0, "reproduced"),
        ("not better", 0.7, "within noise"),
        ("not better", 1.5, "contradicted"),
    ],
)
def test_next_to_no_difference_is_one_within_a_bound(direction, shift, verdict):
    late = {seed: value + shift + 0.05 * (-1) ** seed for seed, value in BASE.items()}
    found, text = judged(replace(CLAIM, direction=direction, within=0.01), numbers(late))
    assert found == verdict and re.search(r"; the bound is 0\.7[12]\), n = 4$", text)  # 0.715


def test_the_same_values_without_a_spread_are_no_proof_of_no_difference():
    assert judged(replace(CLAIM, direction="not worse", within=0.01), numbers(BASE))[0] == "within noise"


@pytest.mark.parametrize(
    ("late", "base", "reason"),
    [
        (numbers({}), numbers({}), "not run"),
        (numbers(UP), numbers({}), "not run"),
        (replace(numbers({0: 80.0}), wanted=1), replace(numbers({0: 70.0}), wanted=1), "no test with n = 1"),
        (numbers({seed: UP[seed] for seed in (0, 1, 2)}), None, "so far n = 3 of 4"),
        (numbers(UP), numbers({0: 70.0, 1: 71.0}), "so far n = 2 of 4"),
        (numbers({}, without="it is about something else"), None, "not possible at this scale"),
        (numbers({}, failed={"seed 0": "it diverged"}), None, "a run failed"),
    ],
)
def test_what_is_not_tested_says_why_and_the_papers_numbers_are_never_ours(late, base, reason):
    assert judged(CLAIM, late, base) == ("not tested", reason)


def test_a_column_that_cannot_be_had_a_table_that_is_not_made_and_one_that_is_older():
    impossible = Numbers({"accuracy": {}, "loss": {}}, [], 4, 4, impossible={"accuracy": "there are no images"})
    assert judged(CLAIM, impossible) == ("not tested", "not possible at this scale")
    assert judge(CLAIM, None).text == "not run"
    assert judged(replace(CLAIM, row="Later"), numbers(UP)) == (
        "not tested",
        "the table is older than this claim: make the table again",
    )


def test_other_seeds_are_counted_on_both_sides():
    assert judged(CLAIM, numbers({seed + 4: value for seed, value in UP.items()}))[1].endswith(", n = 4 and 4")


def test_a_claim_is_not_tested_by_runs_of_another_kind():
    def verdict(*changes: str) -> str:
        results = results_of(numbers(UP))
        return judge(CLAIM, as_record(TABLE, results, say(TABLE, results), "table1", "digits", changes)).verdict

    assert verdict("+scale=digits", "dataset=image_folder", "dataset.root=data/cifar10") == "reproduced"
    assert verdict("+scale=digits", "optimizer.lr=1") == verdict("dataset.subset=100") == "not tested"


TABLES = {path.stem: read_table(path) for path in (ROOT / "configs" / "table").glob("*.yaml")}
CLAIMS = read_claims(ROOT / "configs" / "claims.yaml", TABLES)


def test_every_claim_is_tested_by_a_comparison_of_a_table():
    for claim in CLAIMS.all():
        rows = {row.name: row for row in TABLES[claim.table].rows}
        assert rows[claim.row].against == claim.against and claim.against in rows, claim.sentence
        assert claim.column in TABLES[claim.table].columns, claim.sentence
    assert len({claim.sentence for claim in CLAIMS.all()}) == len(CLAIMS.all()) > 30
    scales = {path.stem for path in (ROOT / "configs" / "scale").glob("*.yaml")}
    assert set(CLAIMS.scales) == {"paper", *scales}


NOT_IN_ITS_TABLE = "Late-phase BatchNorm with frozen base weights doesn't even match SGD."


@pytest.mark.parametrize("claim", CLAIMS.all(), ids=lambda claim: claim.sentence)
def test_the_papers_own_numbers_are_as_it_claims(claim):
    """So a direction is not the wrong way round. Figures have no numbers, and one sentence has none to stand on."""
    rows, column = {row.name: row for row in TABLES[claim.table].rows}, TABLES[claim.table].columns[claim.column]
    one, other = (rows[name].paper.get(claim.column) for name in (claim.row, claim.against))
    if one is None:  # a figure: read off it
        assert (claim.table, claim.direction) in (("figure2", "better"), ("figure3", "better"))
        return
    gain = (one[0] - other[0]) * (1 if column.more_is_better else -1)
    bound = claim.within * other[0]
    fits = {"better": gain > 0, "worse": gain < 0, "not better": gain < bound, "not worse": gain > -bound}
    assert fits[claim.direction] == (claim.sentence != NOT_IN_ITS_TABLE)


WRONG = {
    "table: table1": ("table: table99", "needs the table table99, which configs/table lacks"),
    "row: Late": ("row: Latest", "needs Latest against Base, which table1 doesn't compare"),
    "against: Base": ("against: Late", "needs Late against Late, which table1 doesn't compare"),
    "column: accuracy": ("column: speed", "needs speed, which is no column of table1"),
    "direction: better": ("direction: faster", "has the direction faster, which must be one of better, worse"),
    "place: Section 1": ("plaice: Section 1", "plaice"),
    "sentence: Late is better.": ("within: 0.0", "it lacks topics.*sentence"),
    "column: accuracy\n": ("column: accuracy\n        within: 0.1\n", "needs within above 0 if its direction is not better"),
}
CLAIMS_OF_MINE = """
scales: {digits: "Toy <data>."}
topics:
  - title: "Topic & more"
    claims:
      - sentence: Late is better.
        place: Section 1
        table: table1
        row: Late
        against: Base
        column: accuracy
        direction: better
"""


@pytest.mark.parametrize("right", WRONG)
def test_a_claim_that_no_table_tests_is_refused(tmp_path, right):
    wrong, message = WRONG[right]
    path = tmp_path / "claims.yaml"
    path.write_text(CLAIMS_OF_MINE.replace(right, wrong))
    assert path.read_text() != CLAIMS_OF_MINE
    with pytest.raises(UserError, match=f"claims.yaml can't be used .*{message}.*: correct it"):
        read_claims(path, {"table1": TABLE})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one table at three scales, each with another verdict."""
    (tmp_path / "configs" / "table").mkdir(parents=True)
    for number in (1, 2):
        table = OmegaConf.structured(replace(TABLE, place=f"Table {number}"))
        OmegaConf.save(table, tmp_path / "configs" / "table" / f"table{number}.yaml")
    (tmp_path / "configs" / "claims.yaml").write_text(CLAIMS_OF_MINE)
    (tmp_path / "CONTRIBUTING.md").write_text(
        "# C\n\n## Faithfulness\n\nThe <paper>\nwins.\n\n| a | b |\n|---|---|\n| `x<y` | z |\n\n## Z\n"
    )
    for scale, late in {"": DOWN, "digits": UP, "small": NOISE}.items():
        write(TABLE, results_of(numbers(late)), "table1", tmp_path / "results", scale, [f"+scale={scale}"] if scale else [])
    (tmp_path / "results" / "mine").mkdir()
    (tmp_path / "results" / "mine" / "README.md").write_text("# mine: by `make mine`\n\nText.\n")
    return tmp_path


def test_each_scale_has_a_verdict_of_its_own(root):
    page = read_page(root / "results", root)
    (claim,) = page.topics["Topic & more"]
    assert {scale: found.verdict for scale, found in claim.findings.items()} == {
        "digits": "reproduced",
        "paper": "contradicted",
        "small": "within noise",
    }
    markdown, text = as_markdown(page), as_html(page)
    assert "* **Scale digits**: 1 reproduced.\n" in markdown and "* **The paper's scale**: 1 contradicted.\n" in markdown
    assert re.search(r"\| Late is better\. +\| Section 1, Table 1: Late against Base, test accuracy \(%\) \| \+17\.41 ", markdown)
    for verdict in ("reproduced", "contradicted", "within noise"):
        assert text.count(f'">{verdict}</span>') == 1 and f"**{verdict}**: " in markdown
    assert "## Scale small" in markdown and "Table 2: not made." in markdown
    assert "* Table 1: 2 of 4 rows lack seeds." in markdown


def test_a_run_counts_once_however_many_tables_it_is_in(root):
    before = as_markdown(read_page(root / "results", root))
    write(replace(TABLE, place="Table 2"), results_of(numbers(UP)), "table2", root / "results", "digits", ["+scale=digits"])
    after = as_markdown(read_page(root / "results", root))
    assert "* Ours: 9 runs on cpu, 9 hours of training, by commit 000000000000." in before
    section = after.partition("## Scale digits")[2]
    assert section.startswith("\n\nToy <data>.\n\n* Ours: 9 runs on cpu, 9 hours") and "### Table 2: A table" in section


def test_what_comes_from_data_is_escaped(root):
    text = as_html(read_page(root / "results", root))
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; <code>x</code>" in text and "Topic &amp; more" in text
    assert "x&lt;y" in text and "The &lt;paper&gt; wins." in text and "Toy &lt;data&gt;." in text
    for raw in ("<script>alert", "<b>note", "<i>note", "<data>", "<paper>"):
        assert raw not in text
    assert text.count("<script>") == 1


def test_the_same_files_make_the_same_bytes(root):
    first = read_page(root / "results", root)
    again = read_page(Path(shutil.copytree(root / "results", root / "copy")), root)
    assert (as_markdown(first), as_html(first)) == (as_markdown(again), as_html(again))


def test_no_result_and_no_folder(tmp_path, root):
    (tmp_path / "empty").mkdir()
    text = as_markdown(read_page(tmp_path / "empty", root))
    assert "* **The paper's scale**: 1 not tested.\n" in text and "not tested: not run" in text
    assert "## Scale" not in text and "* Table 1, Table 2: not made.\n" in text
    with pytest.raises(UserError, match=r"there is no folder .*nowhere: make a table first"):
        read_page(tmp_path / "nowhere", root)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"name": "table1"}'])
def test_a_damaged_table_is_named(root, content):
    path = root / "results" / "tables" / "digits" / "table1.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"digits/table1\.json is not a valid table .*: make it again, or delete it"):
        read_page(root / "results", root)


def test_two_tables_of_one_name_and_scale_are_refused(root):
    tables = root / "results" / "tables"
    shutil.copytree(tables / "digits", tables / "digits-old")
    with pytest.raises(
        UserError, match=r"digits-old/table1\.json and .*digits/table1\.json hold the same table at the same scale: delete"
    ):
        read_page(root / "results", root)


def test_a_table_that_is_not_the_papers_is_no_part_of_its_scale(root):
    write(replace(TABLE, place="Mine"), results_of(numbers(UP)), "mine", root / "results", "", [])
    text = as_markdown(read_page(root / "results", root))
    assert "## Beyond the paper\n\n### Mine: A table\n" in text and text.index("## Beyond") > text.index("## Scale small")


COMMITTED = {name: (ROOT / "results" / name).read_text(encoding="utf-8") for name in ("README.md", "index.html")}


def test_the_committed_page_is_that_of_the_committed_results():
    page = read_page(ROOT / "results", ROOT)
    stale = "`make page` makes it anew"
    assert as_markdown(page) == COMMITTED["README.md"], stale
    assert as_html(page) == COMMITTED["index.html"], stale


def test_the_page_has_all_folders_and_all_of_faithfulness_and_its_links_lead_somewhere():
    with_page = {path.parent.name for path in (ROOT / "results").glob("*/README.md")}
    assert {"cifar10_lenet", "digits_demo", "nqp", "methods", "table6_pydocs", "tinyshakespeare", "benchmarks"} <= with_page
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n## Faithfulness\n")[2]
    points = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(points) > 40
    shown = COMMITTED["README.md"].partition("\n## Faithfulness\n")[2]
    assert all(re.sub(" +", " ", line) in re.sub(" +", " ", shown) for line in points)
    links = re.findall(r"\]\(([^)]+)\)", COMMITTED["README.md"]) + re.findall(r'(?:href|src)="([^"]*)"', COMMITTED["index.html"])
    for link in links:
        inside = link.startswith("#") and f'id="{link[1:]}"' in COMMITTED["index.html"]
        assert inside or link.startswith("data:") or (ROOT / "results" / link).exists(), link
    assert with_page <= {link.removesuffix("/README.md") for link in links}
    assert not re.search(r"url\(|@import|<link (?!rel=\"icon\")|http://|https://", COMMITTED["index.html"])


def test_the_script_writes_both_files(root, main):
    results = root / "results"  # of rows that the repository's claims are not about
    status, output = main("--results", str(results), script="scripts/page.py")
    assert (status, output) == (0, f"{results / 'README.md'}\n{results / 'index.html'}\n")
    page = read_page(results, ROOT)
    assert (results / "README.md").read_text(encoding="utf-8") == as_markdown(page)
    assert (results / "index.html").read_text(encoding="utf-8") == as_html(page)
    assert "not tested: the table is older than this claim: make the table again" in as_markdown(page)


SORTED = """
const table = document.querySelector("table.data"), seen = [];
const column = (n) => [...table.tBodies[0].rows].map((row) => row.cells[n].textContent);
for (const n of [2, 2, 0]) {
  table.tHead.rows[0].cells[n].querySelector("button").click();
  seen.push([column(n), table.tHead.rows[0].cells[n].getAttribute("aria-sort"), table.querySelectorAll("[aria-sort]").length]);
}
return seen;
"""
WIDE = """
document.querySelectorAll("details").forEach((own) => { own.open = true; });
const box = document.querySelector(".box");
return [innerWidth, document.documentElement.scrollWidth, document.body.scrollWidth,
        [...document.querySelectorAll(".box")].some((own) => own.scrollWidth > own.clientWidth)];
"""
needs_browser = pytest.mark.skipif(browser.CHROMIUM is None, reason="there is no Chromium")


@needs_browser
def test_a_browser_sorts_numbers_as_numbers(root, tmp_path):
    values = ({0: 10.0}, {0: 9.5}, {0: 1234.5}, {})
    few = {row.name: numbers(own) for row, own in zip(TABLE.rows, values, strict=True)}
    write(TABLE, few, "table1", root / "results", "digits", [])
    (up, down, names), errors = browser.ask(as_html(read_page(root / "results", root)), SORTED, 1200, tmp_path)
    assert errors == []
    end = " (n = 1 of 4)"
    assert up == [[f"9.50{end}", f"10.00{end}", f"1234.50{end}", "missing"], "ascending", 1]
    assert down == [[f"1234.50{end}", f"10.00{end}", f"9.50{end}", "missing"], "descending", 1]
    assert names[0][1:3] == [LONG, "Base"] and names[1] == "ascending"


@needs_browser
@pytest.mark.parametrize("which", ["made up", "committed"])
def test_a_small_window_is_as_wide_as_the_page(root, tmp_path, which):
    page = COMMITTED["index.html"] if which == "committed" else as_html(read_page(root / "results", root))
    (window, document, body, scrolls), errors = browser.ask(page, WIDE, 390, tmp_path)
    assert (window, errors) == (390, []) and document <= 390 and body <= 390
    assert scrolls, "a table scrolls within its box"
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
