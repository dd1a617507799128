"""Extends MkDocs for mkdocs.yml: adds the repository around docs/ to the site, and turns reST roles in docstrings into links.

The pages in docs/ link to other files of the repository, such as ``../README.md`` and ``../src/late_phase/method.py``. The site
gets a copy of each linked file, so the same links work there. Markdown is rendered, code is shown with line numbers, a folder
becomes a list of its files, and all other files are copied as they are.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".cff": "yaml", ".toml": "toml"}
"""Endings of the files that are shown as code, and their languages."""

MARKDOWN_LINK = re.compile(r"\]\(<?([^)\s>]+)")
HTML_LINK = re.compile(r'(?<=\bhref=")([^":#]+)')
ROLE = re.compile(r":(?:py:)?(?:class|meth|func|mod|attr|data|exc|obj):`(~?)([\w.]+)`")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Gives each page its path in the repository, adds the files that pages link to, and makes the navigation."""
    root = Path(config.config_file_path).resolve().parent
    docs = Path(config.docs_dir).resolve().relative_to(root).as_posix()
    own = [file for file in files if file.src_dir == config.docs_dir]
    for file in own:
        files.remove(file)
        path, kept = f"{docs}/{file.src_uri}", {"dest_uri": file.dest_uri, "inclusion": file.inclusion}
        files.append(File(path, str(root), config.site_dir, config.use_directory_urls, **kept))

    waiting = [file.src_uri for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        for path in sorted(set(targets(root, waiting.pop())) - seen):
            seen.add(path)
            if not path.startswith(f"{docs}/"):
                files.append(outside(root, path, config))
                waiting.append(path)
    config.nav = navigation(root, docs, files)
    return files


def targets(root: Path, path: str) -> Iterator[str]:
    """Yields the paths in the repository to which a page, a folder or an HTML file links. MkDocs itself warns of broken links."""
    if (root / path).is_dir():
        yield from (f"{path}/{entry.name}" for entry in (root / path).iterdir() if not entry.name.startswith((".", "__pycache__")))
    elif path.endswith((".md", ".html")):
        pattern = MARKDOWN_LINK if path.endswith(".md") else HTML_LINK
        for link in pattern.findall((root / path).read_text(encoding="utf-8")):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(link.partition("#")[0])))
            if "://" not in link and not link.startswith(("#", "/", "mailto:")) and not re.match(r"\.\.?(/|$)", target):
                yield from [target] if (root / target).exists() else []


class Shown(File):
    """A file of code, or a folder, which the site shows as a page."""

    def is_documentation_page(self) -> bool:
        return True


def outside(root: Path, path: str, config: MkDocsConfig) -> File:
    """Returns what the site shows of a file or folder that is not in docs/."""
    source, kind, content = root / path, File, None
    if source.is_dir():
        kind = Shown
        entries = sorted(posixpath.relpath(target, posixpath.dirname(path) or ".") for target in targets(root, path))
        content = "\n".join([f"# {path}/", "", *(f"- [{posixpath.basename(entry)}]({entry})" for entry in entries)])
    elif source.suffix == ".html":
        content = HTML_LINK.sub(lambda link: href(root, path, link[0]), source.read_text(encoding="utf-8"))
    elif source.suffix in LANGUAGES:
        kind = Shown
        fence = f'``````{{.{LANGUAGES[source.suffix]} linenums="1"}}'
        content = f"---\nsearch:\n  exclude: true\n---\n# {path}\n\n{fence}\n{source.read_text(encoding='utf-8')}\n``````\n"
    places = {"dest_uri": place(root, path), "inclusion": InclusionLevel.NOT_IN_NAV}
    file = kind(path, str(root), config.site_dir, config.use_directory_urls, **places)
    if content is not None:
        file.content_string = content
    return file


def place(root: Path, path: str) -> str:
    """Returns where the site has a file or folder that is not in docs/."""
    if (root / path).is_dir():
        return f"{path}/files.html"
    stem, ending = posixpath.splitext(path)
    return f"{stem}.html" if ending == ".md" else f"{path}.html" if ending in LANGUAGES else path


def href(root: Path, path: str, link: str) -> str:
    """Returns a link of an HTML file as the site needs it."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(link)))
    return posixpath.relpath(place(root, target), posixpath.dirname(path) or ".") if (root / target).exists() else link


def navigation(root: Path, docs: str, files: Files) -> list[dict[str, Any]]:
    """Makes the navigation from the table of pages in docs/README.md. A folder's README brings the folder's other pages."""
    index = f"{docs}/README.md"
    entries: list[dict[str, Any]] = [{"Overview": index}]
    for title, link in re.findall(r"^\| *\[([^]]+)\]\(([^)]+)\)", (root / index).read_text(encoding="utf-8"), re.MULTILINE):
        path = posixpath.normpath(posixpath.join(docs, link))
        folder, name = posixpath.split(path)
        if name == "README.md" and path.startswith(f"{docs}/"):
            others = sorted(file.src_uri for file in files.documentation_pages() if posixpath.dirname(file.src_uri) == folder)
            entries.append({title: [path, *(other for other in others if other != path)]})
        else:
            entries.append({title: path})
    return entries


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Lets Markdown work inside ``<details>``, as it does on GitHub."""
    return markdown if isinstance(page.file, Shown) else markdown.replace("<details>", '<details markdown="1">')


def on_page_content(html: str, **_: Any) -> str:
    """Shows ``\\|`` in the cells of tables as ``|``, also in code, as GitHub does. Lines may break after it."""
    return re.sub(r"<td.*?</td>", lambda cell: cell[0].replace(r"\|", "|<wbr>"), html, flags=re.DOTALL)


class Roles(griffe.Extension):
    """Turns reST roles in docstrings, such as ``:meth:`average```, into links where the reference has an entry, else into code."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        self._convert(pkg)

    def _convert(self, item: griffe.Object) -> None:
        if item.docstring:
            item.docstring.value = ROLE.sub(lambda role: link_to(role, item), item.docstring.value)
        for member in item.members.values():
            if not member.is_alias:
                self._convert(member)


def link_to(role: re.Match[str], item: griffe.Object) -> str:
    """Returns the link for a role in an object's docstring."""
    short, name = role.groups()
    head, _, rest = name.partition(".")
    try:
        target = ".".join(filter(None, [item.resolve(head), rest]))
    except griffe.NameResolutionError:
        target = name
    code = name.rpartition(".")[2] if short else name
    return f'<autoref identifier="{target}" optional><code>{code}</code></autoref>'
