"""The page's style in a browser, and the script that sorts its tables."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --ink: #1c1e21; --soft: #63676e; --line: #e3e3df; --row: #f5f5f2; --link: #2b5a9e;
  --good: #19703f; --good-back: #e2f2e8; --bad: #a8322a; --bad-back: #fae6e4;
  --open: #785a0c; --open-back: #f8efd6; --none: #dededa;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --ink: #e2e3e5; --soft: #9a9fa7; --line: #2c2f34; --row: #1c1f23; --link: #8db4ea;
    --good: #79d09d; --good-back: #17382a; --bad: #f0968e; --bad-back: #44211f;
    --open: #e0c070; --open-back: #3a3118; --none: #3a3d42;
  }
  img { filter: invert(0.91) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 3rem 1.5rem 6rem; max-width: 70rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
h1 { margin: 0 0 0.6rem; font-size: 1.75rem; line-height: 1.2; font-weight: 600; letter-spacing: -0.01em; }
h2 { margin: 4.5rem 0 0.8rem; font-size: 1.35rem; line-height: 1.3; font-weight: 600; }
nav + h2 { margin-top: 2.5rem; }
h3 { margin: 2.8rem 0 0.6rem; font-size: 1.05rem; font-weight: 600; }
p, ul { max-width: 46rem; margin: 0.6rem 0; }
ul { padding-left: 1.2rem; }
li { margin: 0.25rem 0; }
a { color: var(--link); text-decoration: none; }
a:hover { text-decoration: underline; }
code { font: 0.88em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
nav { display: flex; flex-wrap: wrap; gap: 0.3rem 1.1rem; margin: 1rem 0; font-size: 0.9rem; }
details { max-width: 46rem; margin: 0.5rem 0; font-size: 0.9rem; color: var(--soft); }
details.wide { max-width: none; }
summary { cursor: pointer; width: fit-content; }
summary:hover { color: var(--ink); }
img { display: block; max-width: 100%; height: auto; margin: 1rem 0; }
.soft { color: var(--soft); font-size: 0.9rem; }
.small { display: block; margin-top: 0.1rem; color: var(--soft); font-size: 0.8rem; line-height: 1.4; }

.reproduced { --own: var(--good); --back: var(--good-back); }
.contradicted { --own: var(--bad); --back: var(--bad-back); }
.within-noise { --own: var(--open); --back: var(--open-back); }
.not-tested { --own: var(--soft); --back: none; }
.totals { margin: 1.4rem 0; max-width: 60rem; }
.total {
  display: grid; grid-template-columns: 9.5rem 14rem 1fr; gap: 0 1.2rem; align-items: center; margin: 1rem 0;
}
.total .small { grid-column: 1 / -1; max-width: 50rem; }
.bar { display: flex; gap: 2px; height: 0.6rem; border-radius: 0.3rem; overflow: hidden; }
.bar i { background: var(--own); }
.bar i.within-noise { opacity: 0.55; }
.bar i.not-tested { background: var(--none); }
.total span span { color: var(--own); white-space: nowrap; }
.chip {
  display: inline-block; padding: 0.05rem 0.55rem; border-radius: 0.7rem; color: var(--own); background: var(--back);
  font-size: 0.84rem; font-weight: 600; white-space: nowrap;
}
.chip.not-tested { padding: 0.05rem 0; font-weight: 400; }

table { border-collapse: collapse; }
.claims { width: 100%; margin-top: 2.2rem; table-layout: fixed; }
.claims col { width: 12.5rem; }
.claims col.their { width: 6rem; }
.claims .their { color: var(--soft); font-size: 0.84rem; }
.claims col:first-child { width: auto; }
.claims th, .claims td {
  padding: 0.55rem 1rem 0.55rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; font-weight: 400;
}
.claims thead th { padding-bottom: 0.3rem; color: var(--soft); font-size: 0.84rem; vertical-align: bottom; }
.claims thead th:first-child { color: var(--ink); font-size: 1.05rem; font-weight: 600; }

.box { /* shaded at the right while there is more to see */
  overflow-x: auto; margin: 0.8rem 0; max-width: 100%;
  background:
    linear-gradient(var(--paper), var(--paper)) right / 1.5rem 100% no-repeat local,
    linear-gradient(to left, var(--none), transparent) right / 0.8rem 100% no-repeat scroll;
}
.data { font-size: 0.9rem; overflow-wrap: normal; }
.data th, .data td {
  padding: 0.32rem 1.1rem 0.32rem 0; border-bottom: 1px solid var(--line);
  text-align: right; vertical-align: top; font-weight: 400; white-space: nowrap;
}
.data thead th { min-width: 5.5rem; border-bottom-color: var(--soft); vertical-align: bottom; white-space: normal; }
.data thead th:last-child { min-width: 2.5rem; }
.data th:first-child { position: sticky; left: 0; background: var(--paper); text-align: left; }
.data tbody tr:hover > * { background: var(--row); }
.data .theirs, .data .none { color: var(--soft); }
.data.text th, .data.text td { min-width: 9rem; text-align: left; white-space: normal; overflow-wrap: anywhere; }
.data button { all: unset; cursor: pointer; }
.data button:hover { color: var(--link); }
.data button:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.data [aria-sort="ascending"] button::after { content: " \\2191"; }
.data [aria-sort="descending"] button::after { content: " \\2193"; }

@media (max-width: 60rem) {
  body { padding: 1.6rem 1rem 4rem; }
  h1 { font-size: 1.45rem; }
  h2 { margin-top: 3.5rem; }
  .total { grid-template-columns: 1fr; margin: 1rem 0; }
  .claims, .claims tbody, .claims tr, .claims thead, .claims th, .claims td { display: block; }
  .claims colgroup, .claims thead th:not(:first-child) { display: none; }
  .claims thead { border-bottom: 1px solid var(--line); }
  .claims tbody tr { padding: 0.7rem 0; border-bottom: 1px solid var(--line); }
  .claims th, .claims td { padding: 0; border: 0; }
  .claims td { display: grid; grid-template-columns: 8rem 1fr; align-items: baseline; margin-top: 0.45rem; }
  .claims td::before { content: attr(data-scale); color: var(--soft); font-size: 0.84rem; }
  .claims td .chip { justify-self: start; }
  .claims td .small { grid-column: 2; }
  .data tbody th { min-width: 8.5rem; max-width: 42vw; white-space: normal; }
}
@media print {
  body { max-width: none; }
  .claims tr, .data tr { break-inside: avoid; }
}
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.data")) {
  const titles = [...table.tHead.rows[0].cells];
  titles.forEach((title, column) => title.querySelector("button").addEventListener("click", () => {
    const down = title.getAttribute("aria-sort") === "ascending";
    titles.forEach((other) => other.removeAttribute("aria-sort"));
    title.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => {
      const text = row.cells[column].textContent.trim();
      const number = text.match(/^[-+]?[\\d,]*\\.?\\d+/);
      return { text, number: number ? parseFloat(number[0].replaceAll(",", "")) : NaN };
    };
    const order = (a, b) => {
      if (isNaN(a.number) !== isNaN(b.number)) return isNaN(a.number) ? 1 : -1;
      const by = isNaN(a.number) ? a.text.localeCompare(b.text, "en", { numeric: true }) : a.number - b.number;
      return down ? -by : by;
    };
    const rows = [...table.tBodies[0].rows].map((row) => [row, value(row)]);
    table.tBodies[0].append(...rows.sort((a, b) => order(a[1], b[1])).map(([row]) => row));
  }));
}
"""
"""Cells that begin with a number sort by that number. All other cells come last."""
