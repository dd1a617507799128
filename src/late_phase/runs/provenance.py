"""Where numbers come from."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import torch

from late_phase.config.identity import config_hash
from late_phase.config.training import TrainConfig

PACKAGE = Path(__file__).resolve().parent.parent


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


def git_commit(code: Path = PACKAGE) -> str | None:
    """The commit of the folder ``code``, with ``-dirty`` if its files differ, new ones too; None outside of a repository.

    Files elsewhere, such as the results that runs leave, make no difference.
    """
    command = ["git", "--no-optional-locks", "-C", str(code), "status", "--porcelain=v2", "--branch", "--", "."]
    try:
        head, *lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    commit = head.removeprefix("# branch.oid ")
    changed = any(not line.startswith("# ") for line in lines)
    return None if commit == "(initial)" else f"{commit}-dirty" if changed else commit


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"cpu ({threads} thread{'s' * (threads > 1)})" if device.type == "cpu" else device.type
