"""Runs every script from a copy of this repository's scripts, without what takes long; for tests of what they print.

``python entries.py FOLDER [SCRIPT...]`` makes the copy in ``FOLDER``, with this repository's results as outputs. Without names of
scripts, it runs all of them.
"""

from __future__ import annotations

import os
import runpy
import shutil
import sys
from pathlib import Path
from unittest.mock import patch

from late_phase.benchmark.workloads import Sizes

ROOT = Path(__file__).resolve().parent.parent
TINY = ["epochs=1", "batch_size=8", "dataset.subset=24", "dataset.test_subset=20", "late_phase.T0=0", "late_phase.K=2"]

ENTRIES = {
    "train.py": [*TINY, "hydra.run.dir=own/seed=0"],
    "scripts/evaluate.py": ["run=own/seed=0", "suite=flatness", "flatness.draws=2", "flatness.sigmas=[0.1]"],
    "scripts/report.py": ["outputs/digits_lenet_base"],
    "scripts/export.py": ["own/seed=0", "--to", "own/folder"],
    "scripts/soup.py": ["tuned", "--to", "own/soup"],
    "scripts/nqp.py": ["K=1", "eta=0.1", "n=4", "target_norm=2.0", "window=1"],
    "scripts/prepare_data.py": ["digits"],
    "scripts/benchmark.py": ["--to", "own/benchmarks"],
    "scripts/demo.py": [],
    "scripts/table.py": ["table3", "--build"],
    "scripts/table7.py": ["--to", "own"],
    "scripts/page.py": ["--results", "outputs"],
}
"""Script -> arguments."""

BEFORE = {
    "scripts/soup.py": [[*TINY, "architecture.weights=own/seed=0", f"hydra.run.dir=tuned/seed={i}", f"seed={i}"] for i in (0, 1)]
}
"""Script -> the arguments of ``train.py`` for each run that it needs."""


def run(script: str, arguments: list[str]) -> int | str | None:
    """A script as ``__main__``; returns what it exits with. Training that others start is done already, and no blocks are timed."""
    with (
        patch.object(sys, "argv", [script, *arguments]),
        patch("late_phase.benchmark.report.PARTS", ()),
        patch("late_phase.benchmark.workloads.Sizes.on", lambda *_: Sizes(depth=10, width=1, batch=8, K=2)),
        patch("late_phase.support.children.run_script", lambda *_: 0),
    ):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            return end.code
    return None


def copy(folder: Path) -> None:
    for name in ("scripts", "configs"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("train.py", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "results" / "methods" / "digits_lenet_base", folder / "outputs" / "digits_lenet_base")
    shutil.copytree(ROOT / "results" / "methods" / "digits_lenet_lpbn", folder / "outputs" / "digits_lenet_lpbn")


if __name__ == "__main__":
    folder, scripts = Path(sys.argv[1]), sys.argv[2:] or ENTRIES
    copy(folder)
    os.chdir(folder)
    sys.path.insert(0, str(folder / "scripts"))  # as Python does for a script
    for script in scripts:
        sys.stdout.reconfigure(errors="strict")
        print(f"== {script}", flush=True)
        for arguments in BEFORE.get(script, []):
            run("train.py", arguments)
        if status := run(script, ENTRIES[script]):
            sys.exit(status)
