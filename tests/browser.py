"""A headless Chromium, where there is one, for tests of pages."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OF_PLAYWRIGHT = sorted((Path.home() / ".cache" / "ms-playwright").glob("chromium*/*/*chrome*"))
CHROMIUM = next((found for name in [*NAMES, *map(str, OF_PLAYWRIGHT)] if (found := shutil.which(name))), None)


def ask(page: str, script: str, width: int, folder: Path) -> tuple[Any, list[str]]:
    """Loads a page into a frame of a width in pixels, which no window's least width limits, and runs a script in it.

    Args:
        script: the body of a function.

    Returns:
        What the function returns, and the errors that the page has met, those of its policy too.
    """
    listen = (
        "<script>const errors = []; addEventListener('error', (e) => errors.push(e.message));"
        "addEventListener('securitypolicyviolation', (e) => errors.push(e.violatedDirective));</script>"
    )
    answer = (
        f"<script>addEventListener('load', () => {{ const own = (() => {{ {script} }})();"
        "parent.document.querySelector('pre').textContent = JSON.stringify([own, errors]); });</script>"
    )
    assert page.count("<head>") == page.count("</body>") == 1
    framed = html.escape(page.replace("<head>", f"<head>{listen}").replace("</body>", f"{answer}</body>"))
    file = folder / "frame.html"
    frame = f'<iframe width="{width}" height="800" style="border: 0" srcdoc="{framed}"></iframe>'
    file.write_text(f'<!doctype html><meta charset="utf-8"><pre></pre>{frame}', encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    done = subprocess.run([CHROMIUM, *options, file.as_uri()], capture_output=True, text=True, check=True, timeout=100)
    own, errors = json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)[1]))
    return own, errors
