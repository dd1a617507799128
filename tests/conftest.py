"""Settings for all tests, and configs as ``train.py`` composes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from late_phase.training.checks import check
from late_phase.training.command_line import as_dataclass
from late_phase.training.config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)  # tests are small: threads cost more than they bring


@pytest.fixture(scope="session")
def composed() -> Callable[..., TrainConfig]:
    """Composes and checks a config from overrides, as on the command line."""

    def compose_config(*overrides: str) -> TrainConfig:
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            return check(as_dataclass(compose("train", ["runtime.progress=false", *overrides])))

    return compose_config
