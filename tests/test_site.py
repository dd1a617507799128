"""The site that `make docs` builds: the API reference is complete, links work, and no page needs the network."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import browser
import pytest
from conftest import ROOT

import late_phase
from late_phase.running_statistics import fold_batchnorm

for tool in ("mkdocs", "material", "mkdocstrings"):
    pytest.importorskip(tool, reason="make docs needs pip install -e '.[docs]'", exc_type=ImportError)

pytestmark = pytest.mark.timeout(400)
PAGE_LOADS = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "dns-prefetch", "manifest"}
"""Values of ``rel`` for which a browser requests what a ``<link>`` names."""


class Page(HTMLParser):
    """What a page has.

    Attributes:
        anchors: id -> where the element begins in ``text``.
        links: targets of links.
        requests: addresses that a browser requests to show the page.
        text: all visible text.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: dict[str, int] = {}
        self.links: list[str] = []
        self.requests: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        for anchor in filter(None, (found.get("id"), found.get("name") if tag == "a" else None)):
            self.anchors.setdefault(anchor, len(self.text))
        if tag in ("a", "area") and "href" in found:
            self.links.append(found["href"])
        if tag == "link" and PAGE_LOADS & set(found.get("rel", "").split()):
            self.requests.append(found["href"])
        self.requests += [found[name] for name in ("src", "srcset", "data", "poster") if tag != "a" and found.get(name)]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", "mkdocs.yml", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    found = {path: Page(path) for path in site.rglob("*.html")}
    assert len(found) > 30
    return found


def public() -> Iterator[tuple[str, str]]:
    """Yields the path and docstring of each public function, class, method and property."""
    yield "late_phase.running_statistics.fold_batchnorm", fold_batchnorm.__doc__
    for name in late_phase.__all__:
        item = getattr(late_phase, name)
        yield f"late_phase.{name}", item.__doc__
        for kind in item.__mro__ if isinstance(item, type) else ():
            for key, value in vars(kind).items():
                if kind.__module__.startswith("late_phase.") and not key.startswith("_") and getattr(value, "__doc__", None):
                    yield f"late_phase.{name}.{key}", value.__doc__


def test_the_reference_has_every_public_name(site, pages):
    page = pages[site / "api.html"]
    entries = {anchor: start for anchor, start in page.anchors.items() if anchor.startswith("late_phase.")}
    assert {name for name, _ in public()} <= entries.keys()
    for name, docstring in public():
        start = entries[name]
        end = min((other for other in entries.values() if other > start), default=None)
        first = re.sub(r"(?::\w+:)?`+([^`]*)`+", r"\1", docstring.strip().partition("\n")[0])
        assert first in " ".join(page.text[start:end].split()), name


def test_roles_and_directives_are_rendered(site, pages):
    text = pages[site / "api.html"].text
    assert not re.search(r":(class|func|meth|mod|attr):|``|::: late_phase", text)
    assert "#late_phase.LatePhase.average" in pages[site / "api.html"].links  # from a docstring's :meth:`average`


def test_no_page_needs_the_network(site, pages):
    for path, page in pages.items():
        outside = [address for address in page.requests if re.match(r"(\w+:)?//", address)]
        assert not outside, f"{path}: {outside}"
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import", path.read_text(encoding="utf-8")), path


def test_links_and_anchors_lead_somewhere(site, pages):
    for path, page in pages.items():
        if path.name == "404.html":  # a server shows it in any folder, so its links begin with /
            continue
        for link in page.links + page.requests:
            scheme, host, target, _, anchor = urlsplit(link)
            if scheme or host:
                continue
            found = Path(os.path.normpath(path.parent / unquote(target))) if target else path
            assert found.is_relative_to(site) and found.is_file(), f"{path}: {link}"
            assert not anchor or unquote(anchor) in pages[found].anchors or found.suffix != ".html", f"{path}: {link}"


@pytest.mark.parametrize("link", ["README.html", "results/README.html", "src/late_phase/method.py.html", "results/index.html"])
def test_the_site_has_what_the_pages_link_to(site, link):
    assert (site / link).is_file()


def test_markdown_works_as_on_github(site, pages):
    assert "averaging=none|ema|lawa|lookahead|swa|swag" in pages[site / "configuration.html"].text  # an escaped | in a table
    assert "tables/digits/table1.html" in pages[site / "results" / "README.html"].links  # in <details>


def seen(address: str, script: str, width: int, folder: Path) -> tuple[list, str]:
    """Loads a page from disk into a frame of a width in pixels, and asks about it when it is ready.

    Args:
        address: the page's file URL.
        script: a list of two expressions about ``page``, the frame's document: whether it is ready, and the answer.

    Returns:
        The answer, and Chromium's log, where messages and errors in the console are lines with CONSOLE.
    """
    frame = folder / "frame.html"
    ask = (
        f"const ask = () => {{ const page = document.querySelector('iframe').contentDocument; const [ready, answer] = {script};"
        "if (ready) document.querySelector('pre').textContent = JSON.stringify(answer); else setTimeout(ask, 50); };"
        "addEventListener('load', ask);"
    )
    frame.write_text(
        f'<!doctype html><meta charset="utf-8"><pre></pre><iframe width="{width}" height="800" style="border: 0" '
        f'src="{html.escape(address)}"></iframe><script>{ask}</script>',
        encoding="utf-8",
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr"]
    options += ["--allow-file-access-from-files", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run([browser.CHROMIUM, *options, frame.as_uri()], capture_output=True, text=True, check=True, timeout=100)
    return json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)[1])), done.stderr


@pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("name", ["index.html", "api.html", "methods/late_phase_batchnorm.html", "results/README.html"])
def test_a_phone_shows_the_page_without_scrolling_sideways(site, tmp_path, name):
    measure = "[page.readyState === 'complete', [page.documentElement.scrollWidth, page.querySelector('h1').textContent]]"
    (width, title), log = seen((site / name).as_uri(), measure, 390, tmp_path)
    assert width <= 390 and title.strip()
    assert "CONSOLE" not in log


@pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium")
def test_search_works_from_disk(site, tmp_path):
    results = "[...page.querySelectorAll('.md-search-result__item a')]"
    address = f"{(site / 'index.html').as_uri()}?q=spawn"
    found, log = seen(address, f"[{results}.length, {results}.map((link) => link.href)]", 1200, tmp_path)
    assert any("api.html" in address for address in found), found
    assert "CONSOLE" not in log
