"""Installs the locked environment into ``.venv``, with uv if it is installed and with pip otherwise. ``make setup`` runs it.

With ``--check`` it only says whether this Python can be used. The script is valid Python 3.6: an old Python can then say that it is
too old.
"""

import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = (ROOT / ".venv").resolve()  # may be a link to a larger disk
PYTHON = VENV / "bin" / "python"
LIBRARY = VENV / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
INSTALLING = VENV / ".installing"
INSTALLED = VENV / ".installed"

HERE = f"for Python {platform.python_version()} on {platform.system()} {platform.machine()}"
# Patterns of what installers print when they fail, each with the sentence for the user. The first pattern that matches counts.
REASONS = (
    (
        r"(?:Errno|os error) (?:28|122)\b",
        "no space is left: .venv takes up to 6 GB and its downloads 3 GB more; {free}: free some space.",
    ),
    (r"(?:Errno|os error) (?:1|13|30)\b[^'\n]*(?:'(?P<what>[^'\n]+))?", "{what} can't be written: change its permissions."),
    (
        r"Connection ?(?:Error|refused|reset|broken)|Connect(?:ion)? ?timeout|timed out|unreachable|name resolution|name or service"
        r"|NewConnection|ProxyError|SSLError|dns error|error sending request",
        "the package index can't be reached: check the network, and the proxy, index and certificates that the installer uses.",
    ),
    (
        r"No matching distribution found for (?P<what>[^\s(]+)|Distribution `(?P<also>[^ `]+)",
        f"the package index offers no {{what}} {HERE}: try another Python with PYTHON=/path/to/python, or check the index.",
    ),
    (
        r"Failed to build|Failed building|metadata-generation-failed",
        f"a package has no wheel {HERE}, and its build failed, as shown above: try another Python with PYTHON=/path/to/python.",
    ),
    (r"", "the installer failed for the reason above: fix it, then run `make setup` again."),
)


def unfit(uv: bool) -> str:
    """Says in one sentence why this Python can't make the environment; empty if it can."""
    if sys.version_info < (3, 11):  # noqa: UP036
        version = platform.python_version()
        return f"{sys.executable} is Python {version}, which is too old: name one of 3.11 to 3.14 with PYTHON=/path/to/python."
    if not uv and importlib.util.find_spec("ensurepip") is None:
        return (
            f"{sys.executable} has no venv module: install it (python3-venv on Debian) or uv, or name another Python with PYTHON=."
        )
    return ""


def explain(output: str) -> str:
    """Says in one sentence why an installer failed, and what to do.

    If the sentence refers to the reason above, the end of the installer's own output comes first.
    """
    output = output[-4000:].rstrip()
    matches = ((re.search(pattern, output, re.IGNORECASE), sentence) for pattern, sentence in REASONS)
    found, sentence = next(match for match in matches if match[0])
    what = next((text for text in found.groups() if text), VENV)
    places = (VENV if VENV.exists() else ROOT, tempfile.gettempdir(), Path.home())
    free = ", ".join(f"{shutil.disk_usage(str(place)).free / 1e9:.1f} GB are free in {place}" for place in places)
    return (f"{output}\n" if "above" in sentence else "") + "error: " + sentence.format(what=what, free=free)


class Status:
    """A line with the current step and the time so far: updated in place on a terminal, printed every 15 seconds elsewhere."""

    def __init__(self) -> None:
        self.began = self.shown = time.monotonic()
        self.doing = ""
        self.downloading = {}

    def read(self, line: str) -> None:
        """Follows one line of the installer's output. pip downloads one file at a time, uv downloads many."""
        word, _, rest = line.strip().partition(" ")
        rest = re.sub(r"(-[\d.]+\w*)-\S+", r"\1", rest)  # keeps only name and version of a wheel
        name = rest.partition(" ")[0]
        progress = re.match(r"Progress (\d+) of ([1-9]\d*)$", line)
        if word == "Downloading":
            self.downloading[name] = rest
        elif word == "Downloaded":
            self.downloading.pop(name, None)
        elif progress and self.downloading:
            percent = 100 * int(progress.group(1)) // int(progress.group(2))
            self.downloading = {name: f"{text.partition(',')[0]}, {percent} %" for name, text in self.downloading.items()}
        elif word in ("Collecting", "Using", "Installing", "Prepared"):
            self.downloading = {}
            self.doing = {"Collecting": f"looking for {name}", "Using": f"using {rest}"}.get(word, "unpacking")
        if self.downloading:
            self.doing = "downloading " + "; ".join(self.downloading.values())

    def __str__(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        return f"[{minutes}:{seconds:02d}] {self.doing}"

    def show(self) -> None:
        text = textwrap.shorten(str(self), shutil.get_terminal_size().columns - 1, placeholder=" ...")
        if sys.stdout.isatty():
            print(f"\r\x1b[K{text}", end="", flush=True)
        elif time.monotonic() - self.shown >= 15:
            print(text, flush=True)
            self.shown = time.monotonic()

    def keep_showing(self, stop: threading.Event) -> None:
        while not stop.wait(1):
            self.show()


def run(status: Status, doing: str, *command: str) -> None:
    """Runs a command. The status shows ``doing`` until the command prints more.

    Raises:
        SystemExit: the command failed; the message says why.
    """
    status.doing = doing
    environment = dict(os.environ, NO_COLOR="1")
    options = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
        "errors": "replace",
    }
    lines = []
    with subprocess.Popen(command, cwd=str(ROOT), env=environment, **options) as process:
        try:
            for line in process.stdout:
                lines.append(line)
                status.read(line)
        finally:
            process.terminate()  # matters only if this process was stopped
            process.wait()
    if process.returncode:
        sys.exit(explain("".join(lines)))


def install(status: Status, uv: "str | None") -> None:
    """Makes ``.venv`` from the lock, and writes the stamp last.

    A stopped install starts again from an empty folder, because uv takes half a package for a whole one. Its downloads are cached.
    """
    whole = PYTHON.exists() and LIBRARY.is_dir() and not INSTALLING.exists()
    pip = importlib.util.find_spec("ensurepip") is not None
    options = [*([] if whole else ["--clear"]), *([] if pip else ["--without-pip"])]
    run(status, "making .venv", sys.executable, "-m", "venv", *options, str(VENV))
    INSTALLING.touch()
    INSTALLED.unlink(missing_ok=True)
    if uv:
        install = [uv, "pip", "install", "--python", str(PYTHON)]
        run(status, "unpacking", *install, "-r", "requirements.lock")
    else:
        install = [str(PYTHON), "-m", "pip", "install"]
        raw = "raw" in subprocess.run([*install, "--help"], capture_output=True, text=True).stdout  # since pip 24.1
        run(status, "reading the lock", *install, "--progress-bar", "raw" if raw else "off", "-r", "requirements.lock")
    run(status, "installing late-phase", *install, "--no-deps", "-e", ".")
    INSTALLING.replace(INSTALLED)


def main() -> None:
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    uv = shutil.which("uv")
    reason = unfit(bool(uv))
    if reason:
        sys.exit(f"error: {reason}")
    if sys.argv[1:] == ["--check"]:
        return
    means = f"{'uv' if uv else 'pip'} and Python {platform.python_version()}"
    print(f"installing into .venv with {means}: up to 6 GB, once", flush=True)
    status, stop = Status(), threading.Event()
    display = threading.Thread(target=status.keep_showing, args=[stop], daemon=True)
    display.start()
    for stopping in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(stopping, signal.default_int_handler)
    message = None
    try:
        install(status, uv)
    except KeyboardInterrupt:
        message = "interrupted: run `make setup` again."
    except OSError as error:
        message = explain(str(error))
    finally:
        stop.set()
        display.join()
        if sys.stdout.isatty():
            print("\r\x1b[K", end="", flush=True)
    if message:
        sys.exit(message)
    status.doing = "installed"
    print(status, flush=True)


if __name__ == "__main__":
    main()
