"""Where numbers come from."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import torch

from late_phase.config.identity import config_hash
from late_phase.config.training import TrainConfig


def record_of(config: TrainConfig, directory: Path, device: torch.device, seconds: float, commit: str | None) -> dict[str, Any]:
    """Where metrics come from: the first entries of ``metrics.json``. Experiment and variant are those of the directory's name."""
    variant = directory.resolve().parent
    return {
        "experiment": variant.parent.name,
        "variant": variant.name,
        "seed": config.seed,
        "T0": config.late_phase.reached(config.epochs),
        "config_hash": config_hash(config),
        "git_commit": commit,
        "device": device_name(device),
        "torch": torch.__version__,
        "seconds": round(seconds, 3),
    }


def git_commit() -> str | None:
    """The commit of this code, with ``-dirty`` if files differ from it; None outside of a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type
