"""Scripts that a script starts: their status, and what a signal does to all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from late_phase.support.children import run_script

SLOW = """
import signal, subprocess, sys, time
def end(number, frame):
    time.sleep(0.6)  # longer than Python's own subprocess.run waits after Ctrl-C
    open(sys.argv[1], "a").write(f"{number} saved\\n")
    sys.exit(3)
signal.signal(signal.SIGINT, end)
signal.signal(signal.SIGTERM, end)
if len(sys.argv) > 2:
    subprocess.Popen([sys.executable, __file__, sys.argv[1]])  # as a launcher does
open(sys.argv[1], "a").write("begun\\n")
time.sleep(60)
"""
PARENT = """
import sys
from pathlib import Path
from late_phase.support.children import run_script
from late_phase.support.console import errors_in_one_sentence
with errors_in_one_sentence():
    run_script(["slow.py", "told", "twice"], Path.cwd())
"""


def test_the_status_is_the_scripts(tmp_path, capsys):
    (tmp_path / "a.py").write_text("import os, sys; print(os.getcwd()); sys.exit(int(sys.argv[1]))")
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert [run_script(["a.py", status], tmp_path) for status in ("0", "4")] == [0, 4]
    assert capsys.readouterr().out == "$ python a.py 0\n$ python a.py 4\n"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("whole_group", [True, False], ids=["as a terminal sends it", "to the script alone"])
def test_a_signal_reaches_all_once_and_they_may_save(tmp_path, number, status, whole_group):
    (tmp_path / "slow.py").write_text(SLOW)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    told: Path = tmp_path / "told"
    while not told.exists() or told.read_text().count("begun") < 2:
        assert parent.poll() is None
        time.sleep(0.02)
    (os.killpg if whole_group else os.kill)(parent.pid, number)
    _, error = parent.communicate(timeout=30)
    assert parent.returncode == status and "Traceback" not in error
    deadline = time.monotonic() + 10  # the grandchild is waited for by its own parent only
    while told.read_text().count("saved") < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sorted(told.read_text().split("\n")) == ["", *[f"{int(number)} saved"] * 2, *["begun"] * 2]
