"""What scripts print: on terminals of any encoding, after the output is closed, and when Ctrl-C comes."""

from __future__ import annotations

import importlib
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import entries
import pytest
from conftest import ROOT

from late_phase.support.console import console
from late_phase.training.interruption import Interruption

ENVIRONMENT = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}


def printed_in_ascii(folder: Path, encoding: dict[str, str], *scripts: str) -> dict[str, str]:
    """What scripts print on a terminal that knows ASCII only."""
    command = [sys.executable, str(ROOT / "tests" / "entries.py"), str(folder), *scripts]
    done = subprocess.run(command, env=ENVIRONMENT | encoding, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    _, *printed = re.split(r"^== (.*)\n", done.stdout.decode("ascii"), flags=re.MULTILINE)
    return dict(zip(printed[::2], printed[1::2], strict=True))


def test_every_script_ends_well_on_a_terminal_that_knows_ascii_only(tmp_path):
    others = {"scripts/install.py"}  # which makes the environment before there is this package
    assert {f"scripts/{path.name}" for path in (ROOT / "scripts").glob("*.py")} - others <= set(entries.ENTRIES)
    by_script = printed_in_ascii(tmp_path / "copy", {"PYTHONIOENCODING": "ascii"})
    assert set(by_script) == set(entries.ENTRIES)
    assert "flatness: sigma_z | single: deltaL (nats), 95 %" in by_script["scripts/evaluate.py"]
    for script in ("evaluate", "report", "nqp", "demo", "table"):
        assert re.search(r"\d \+- \d", by_script[f"scripts/{script}.py"]), script
    assert "mean +- standard deviation over n seeds" in by_script["scripts/demo.py"]


def test_the_terminal_may_know_ascii_only_by_its_locale(tmp_path):
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    (text,) = printed_in_ascii(tmp_path / "copy", locale, "scripts/report.py").values()
    assert re.search(r"\d \+- \d", text)


def printed(text: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> bytes:
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", output)
    with console():
        print(text, end="")
    return output.buffer.getvalue()


def test_signs_that_an_encoding_lacks_are_spelt_out(monkeypatch):
    assert printed("σ_z 1 ± 2 × 3 – η é", "ascii", monkeypatch) == b"sigma_z 1 +- 2 x 3 - eta \\xe9"
    assert printed("σ_z 1 ± 2 é", "latin-1", monkeypatch) == b"sigma_z 1 \xb1 2 \xe9"
    assert printed("σ ± 日本 é", "utf-8", monkeypatch) == "σ ± 日本 é".encode()
    assert printed("日本 \udce9 \U0001f600", "ascii", monkeypatch) == b"\\u65e5\\u672c \\udce9 \\U0001f600"
    assert printed("caf\udce9", "utf-8", monkeypatch) == b"caf\\udce9"  # a file's name that is no UTF-8


def test_streams_of_other_kinds_stay_as_they_are(monkeypatch):
    for stream in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stdout", stream)
        with console():
            print("±")


@pytest.mark.parametrize(
    ("command", "statuses", "error"),
    [
        (["scripts/report.py", str(ROOT / "results" / "digits_demo")], (141,), ""),
        (["scripts/prepare_data.py", "--help"], (0,), ""),
        (["train.py", "--help"], (0, 141), ""),  # 0 where Hydra has ended before the output is written
        (["train.py", "epocs=3"], (1,), "error: epocs is not a key of the config: did you mean epochs?\n"),
    ],
)
def test_a_closed_output_ends_quietly(command, statuses, error):
    """As in ``| head``, which reads no more than it prints; an error is told all the same."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        command = [sys.executable, str(ROOT / command[0]), *command[1:]]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, env=ENVIRONMENT, check=False)
    assert done.returncode in statuses and done.stderr.decode() == error


def test_another_pipe_that_breaks_is_no_closed_output():
    with pytest.raises(BrokenPipeError), console():
        raise BrokenPipeError("of a worker process")


LONG = {
    "train.py": "late_phase.training.loop.run",
    "scripts/evaluate.py": "late_phase.suites.evaluate.evaluate",
    "scripts/report.py": "late_phase.reporting.runs.find_runs",
    "scripts/export.py": "late_phase.export.folder.export",
    "scripts/soup.py": "late_phase.export.soup.soup",
    "scripts/nqp.py": "late_phase.nqp.measure.measure",
    "scripts/prepare_data.py": "late_phase.data.prepare.prepare",
    "scripts/benchmark.py": "late_phase.benchmark.report.benchmark",
    "scripts/demo.py": "late_phase.support.children.run_script",
    "scripts/table.py": "late_phase.reporting.table_config.read_table",
    "scripts/table7.py": "late_phase.reporting.specification.generated_weights",
    "scripts/page.py": "late_phase.reporting.page.read_page",
}
"""Script -> what takes long in it."""


SWEEPS = ("train.py", "scripts/evaluate.py", "scripts/nqp.py")


@pytest.mark.parametrize(
    ("script", "options"), [*((script, []) for script in entries.ENTRIES), *((script, ["-m"]) for script in SWEEPS)]
)
def test_ctrl_c_ends_every_script_with_one_line(main, monkeypatch, script, options):
    arguments = [*options, *entries.ENTRIES[script]]
    calls = []

    def interrupted(*_: object, **__: object) -> None:
        calls.append(script)
        raise KeyboardInterrupt

    module, _, name = LONG[script].rpartition(".")
    monkeypatch.setattr(importlib.import_module(module), name, interrupted)
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))  # as Python does for a script
    status, output = main(*arguments, script=script)
    assert calls and status == 130
    assert output.splitlines()[-1] == "stopped by SIGINT" and "Traceback" not in output and len(output.splitlines()) <= 2


def test_ctrl_c_in_a_suite_ends_the_sweep(main, tmp_path, monkeypatch):
    main(*entries.ENTRIES["train.py"])
    from late_phase.suites import images

    suites_begun = []

    def interrupted(*_: object) -> None:
        suites_begun.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "calibration", interrupted)
    status, output = main("-m", "run=own/seed=0,own/seed=0", "suite=calibration", script="scripts/evaluate.py")
    assert (status, output, len(suites_begun)) == (130, "stopped by SIGINT\n", 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_says_so(capfd, number):
    with pytest.raises(SystemExit) as end, Interruption():
        signal.raise_signal(number)
    assert end.value.code == 128 + number
    assert capfd.readouterr().err == f"stopped by {number.name}\n"
