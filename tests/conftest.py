"""Settings for all tests, and configs as ``train.py`` composes them."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra

from late_phase.command_line.hydra_jobs import as_train_config, register_schemas
from late_phase.config.training import TrainConfig

ROOT = Path(__file__).resolve().parent.parent

Main = Callable[..., tuple[int | str | None, str]]

register_schemas()
torch.set_num_threads(1)  # tests are small: threads cost more than they bring


@pytest.fixture(scope="session")
def composed() -> Callable[..., TrainConfig]:
    """Composes and checks a config from overrides, as on the command line."""

    @functools.cache
    def once(*overrides: str) -> TrainConfig:
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            return as_train_config(compose("train", ["runtime.progress=false", *overrides]))

    # Composing takes as long as a tiny run.
    return lambda *overrides: copy.deepcopy(once(*overrides))


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Main:
    """Runs a script as ``__main__`` in an empty folder; returns its exit status, or the message it exits with, and its output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # the script sets it: to be taken back
    mode = Hydra.get_mode

    def get_mode(hydra: Hydra, config_name: str, overrides: list[str]) -> object:
        """Hydra composes every config twice, the first time to see whether it sets ``hydra.mode``. The configs here don't."""
        return mode(hydra, config_name, overrides) if any("hydra.mode" in override for override in overrides) else None

    monkeypatch.setattr(Hydra, "get_mode", get_mode)

    def run(*arguments: str, script: str = "train.py") -> tuple[int | str | None, str]:
        monkeypatch.setattr(sys, "argv", [str(ROOT / script), *arguments])
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                runpy.run_path(str(ROOT / script), run_name="__main__")
            except SystemExit as end:
                return end.code, output.getvalue()
        return 0, output.getvalue()

    return run
