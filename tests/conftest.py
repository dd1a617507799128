"""Settings for all tests, and configs as ``train.py`` composes them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from late_phase.training.config import TrainConfig, as_dataclass, check

ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)  # tests are small: threads cost more than they bring


@pytest.fixture
def composed() -> Callable[..., TrainConfig]:
    """Composes and checks a config from overrides, as on the command line."""

    def compose_config(*overrides: str) -> TrainConfig:
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            return check(as_dataclass(compose("train", ["runtime.progress=false", *overrides])))

    return compose_config


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs ``python SCRIPT ARGUMENTS`` in an empty folder, on one thread, and returns what it printed."""

    def run(script: str, *arguments: str, **options: object) -> subprocess.CompletedProcess:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
        return subprocess.run(
            [sys.executable, str(ROOT / script), *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            **options,
        )

    return run
