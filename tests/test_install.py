"""``scripts/install.py``, which makes ``.venv``: what it says, and what it leaves behind when it fails or is stopped.

A stand-in for uv plays the installer, so that nothing is downloaded; what installers say is copied from real ones.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]

OUTPUTS = {
    "pip, no network": (
        "WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection broken by "
        "'NewConnectionError('<pip._vendor.urllib3.connection.HTTPConnection object at 0x7fe6d7e7afd0>: Failed to establish a new "
        "connection: [Errno 111] Connection refused')': /simple/annotated-types/\n"
        "ERROR: Could not find a version that satisfies the requirement annotated-types==0.8.0 (from versions: none)\n"
        "ERROR: No matching distribution found for annotated-types==0.8.0\n",
        "error: the package index can't be reached: check the network",
    ),
    "uv, no network": (
        "error: Failed to download `wandb==0.31.0`\n  cause: Request failed after 3 retries in 4.1s\n"
        "  cause: client error (Connect)\n  cause: tcp connect error\n  cause: Connection refused (os error 111)\n",
        "error: the package index can't be reached: check the network",
    ),
    "uv, no certificate": (
        "  cause: error sending request for url\n  cause: invalid peer certificate: UnknownIssuer\n",
        "error: the package index can't be reached: check the network, and the proxy, index and certificates",
    ),
    "pip, a full disk": (
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n",
        "error: no space is left: .venv takes up to 6 GB",
    ),
    "uv, a full disk": (
        "error: Failed to install: torch-2.15.0-cp311-cp311-manylinux_2_28_x86_64.whl (torch==2.15.0)\n"
        "  cause: failed to copy file: No space left on device (os error 28)\n",
        "error: no space is left: .venv takes up to 6 GB",
    ),
    "pip, a quota": (
        "ERROR: Could not install packages due to an OSError: [Errno 122] Disk quota exceeded\n",
        "error: no space is left: .venv takes up to 6 GB",
    ),
    "venv, no permission": (
        "Error: [Errno 13] Permission denied: '/srv/here/.venv'\n",
        "error: /srv/here/.venv can't be written: ",
    ),
    "venv, in German": ("Error: [Errno 30] Das Dateisystem ist nur lesbar: '/srv/.venv'\n", "error: /srv/.venv can't be written: "),
    "uv, no permission": (
        "  cause: failed to canonicalize path `/x/.venv`: Permission denied (os error 13)\n",
        f"error: {ROOT / '.venv'} can't be written: ",
    ),
    "pip, no wheel": (
        "ERROR: Could not find a version that satisfies the requirement torch==2.15.0 (from versions: 1.0, 2.0)\n"
        "ERROR: No matching distribution found for torch==2.15.0\n",
        "error: the package index offers no torch==2.15.0 for Python 3.",
    ),
    "uv, no wheel": (
        "error: Distribution `torch==2.15.0 @ registry+https://index.example/simple` can't be installed because it doesn't have a "
        "source distribution or wheel for the current platform\n",
        "error: the package index offers no torch==2.15.0 for Python 3.",
    ),
    "pip, no compiler": ("error: metadata-generation-failed\n", "a package has no wheel for Python 3."),
    "uv, no compiler": ("error: Failed to build `numpy==1.19.0`\n", "a package has no wheel for Python 3."),
    "unknown": ("ERROR: Proxy URL had unsupported scheme foo\n", "for the reason above: fix it"),
}


PROGRAM = """
import importlib.util, runpy
importlib.util.find_spec = lambda name: None  # an environment without pip is made quickly
runpy.run_path("scripts/install.py", run_name="__main__")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script as a module, in a project of its own, with an environment that has no pip, which is made quickly."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "install.py", tmp_path / "scripts")
    spec = importlib.util.spec_from_file_location("install", tmp_path / "scripts" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "ensurepip" else find_spec(name, *a))
    monkeypatch.setattr(sys, "argv", ["scripts/install.py"])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield module
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a shell script in the place of uv."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def put(script: str) -> None:
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / "uv").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "uv").chmod(0o755)

    return put


@pytest.mark.parametrize("case", OUTPUTS)
def test_a_failure_is_explained_in_one_sentence(install, case, monkeypatch):
    monkeypatch.setattr(install, "VENV", ROOT / ".venv")
    output, sentence = OUTPUTS[case]
    *above, last = install.explain("Collecting many things\n" + output).splitlines()
    assert sentence in last and last.startswith("error: ") and last.endswith(".")
    assert bool(above) == ("above" in last)


def test_the_status_follows_pip(install):
    status = install.Status()
    shown = []
    for line in [
        "Collecting torch==2.15.0 (from -r requirements.lock (line 255))",
        "  Downloading torch-2.15.0-cp314-cp314-manylinux_2_28_x86_64.whl (539.2 MB)",
        "Progress 0 of 0",
        "Progress 0 of 539200000",
        "Progress 404400000 of 539200000",
        "  Using cached filelock-4.3.1-py3-none-any.whl (244 kB)",
        "Installing collected packages: torch, filelock",
    ]:
        status.read(line)
        shown.append(status.doing)
    assert shown == [
        "looking for torch==2.15.0",
        "downloading torch-2.15.0 (539.2 MB)",
        "downloading torch-2.15.0 (539.2 MB)",
        "downloading torch-2.15.0 (539.2 MB), 0 %",
        "downloading torch-2.15.0 (539.2 MB), 75 %",
        "using cached filelock-4.3.1 (244 kB)",
        "unpacking",
    ]
    assert str(status) == "[0:00] unpacking"


def test_the_status_follows_uv(install):
    status = install.Status()
    shown = []
    for line in [
        "Downloading torch (514.2MiB)",
        "Downloading scipy (33.7MiB)",
        " Downloaded scipy",
        "   Building antlr4-python3-runtime==4.9.3",
        "Prepared 16 packages in 37.67s",
    ]:
        status.read(line)
        shown.append(status.doing)
    torch = "downloading torch (514.2MiB)"
    assert shown == [torch, f"{torch}; scipy (33.7MiB)", torch, torch, "unpacking"]


def test_an_old_python_says_so(install, monkeypatch):
    ast.parse((ROOT / "scripts" / "install.py").read_text(encoding="utf-8"), feature_version=(3, 6))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "version_info", (3, 10, 13))
        reason = install.unfit(uv=True)
    assert "is too old: name one of 3.11 to 3.14" in reason


def test_a_python_without_venv_will_do_only_with_uv(install):
    assert "has no venv module" in install.unfit(uv=False)
    assert install.unfit(uv=True) == ""


def test_it_prints_on_any_terminal_and_does_nothing_for_other_arguments(install, tmp_path, monkeypatch):
    assert (ROOT / "scripts" / "install.py").read_text(encoding="utf-8").isascii()
    monkeypatch.setattr(sys, "argv", ["scripts/install.py", "--help"])
    with pytest.raises(SystemExit, match="Installs the locked environment"):
        install.main()
    assert not (tmp_path / ".venv").exists()


def test_the_stamp_comes_last(install, uv, tmp_path, capsys):
    uv('test -e ".venv/.installing" && ! test -e ".venv/.installed"')
    install.main()
    assert sorted(path.name for path in (tmp_path / ".venv").glob(".inst*")) == [".installed"]
    assert len(capsys.readouterr().out.splitlines()) == 2  # no terminal, and less than 15 seconds


def test_a_failed_install_has_no_stamp_and_the_next_begins_anew(install, uv, tmp_path):
    uv('touch ".venv/half"; echo "No space left on device (os error 28)"; exit 2')
    with pytest.raises(SystemExit, match="no space is left"):
        install.main()
    assert (tmp_path / ".venv" / "half").exists() and not (tmp_path / ".venv" / ".installed").exists()
    uv("exit 0")
    install.main()
    assert (tmp_path / ".venv" / ".installed").exists() and not (tmp_path / ".venv" / "half").exists()


def test_a_newer_lock_is_installed_into_what_is_there(install, uv, tmp_path):
    uv("exit 0")
    install.main()
    own = install.LIBRARY / "site-packages" / "own.py"
    own.touch()
    install.main()
    assert own.exists()
    uv("exit 1")
    with pytest.raises(SystemExit):
        install.main()
    assert not (tmp_path / ".venv" / ".installed").exists()


def test_an_environment_of_another_python_is_made_anew(install, uv, tmp_path):
    (tmp_path / ".venv" / "lib" / "python3.10").mkdir(parents=True)
    uv("exit 0")
    install.main()
    assert [path.name for path in (tmp_path / ".venv" / "lib").iterdir()] == [install.LIBRARY.name]


def test_the_environment_may_lie_on_another_disk(install, uv, tmp_path):
    (tmp_path / ".venv").symlink_to(tmp_path / "large")
    uv('test -d ".venv"')
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, check=True)
    assert (tmp_path / ".venv").is_symlink() and (tmp_path / "large" / ".installed").exists()


def test_a_file_in_the_way_is_named(install, uv, tmp_path):
    (tmp_path / ".venv").write_text("a file")
    uv("exit 0")
    with pytest.raises(SystemExit, match=r"\.venv'\nerror: the installer failed for the reason above"):
        install.main()
    assert (tmp_path / ".venv").read_text() == "a file"


def test_a_stopped_install_ends_its_installer_and_has_no_stamp(install, uv, tmp_path):
    uv("echo $$ > pid; sleep 0.5; kill -TERM $PPID; exec sleep 60")
    end = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert (end.returncode, end.stderr) == (1, "interrupted: run `make setup` again.\n")
    assert not (tmp_path / ".venv" / ".installed").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.skipif(importlib.util.find_spec("ensurepip") is None, reason="needs venv")
def test_pip_installs_where_there_is_no_uv(tmp_path):
    for name in ("scripts/install.py", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "requirements.lock").write_text("late-phase-nowhere==1\n")
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    command = [sys.executable, "scripts/install.py"]
    end = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert end.stdout.startswith("installing into .venv with pip")
    assert end.stderr.startswith("error: the package index offers no late-phase-nowhere==1 for Python 3.")
    assert not (tmp_path / ".venv" / ".installed").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_takes_the_newest_python_that_will_do(tmp_path):
    """One that doesn't run, such as pyenv's for a version not chosen, is passed over; of those that won't do the first says why."""
    (tmp_path / "scripts").mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "scripts/install.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    commands = {"python3.14": "exit 127", "python3.13": "[ $1 = --version ]", "python3.12": "exit 0", "python3.11": "exit 0"}
    for name, script in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}  # without what a make around this test hands down
    plan = ["make", "-n", "setup"]
    output = subprocess.run(plan, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert output == 'exec "python3.12" scripts/install.py\n'
