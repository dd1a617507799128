"""The provenance of numbers: config, version of the code, and hardware."""

from __future__ import annotations

import ast
import functools
import hashlib
import subprocess
from pathlib import Path
from typing import Any

import torch

from late_phase.config.identity import config_hash
from late_phase.config.training import TrainConfig

PACKAGE = Path(__file__).resolve().parent.parent

COMPUTING = ("architectures/", "data/", "evaluation/", "layers/", "methods/", "optimization/", "suites/", "tasks/", "training/")
"""Folders whose code the numbers of a run depend on. So do ``COMPUTING_TOO`` and the modules at the top of the package."""
COMPUTING_TOO = ("support/devices.py", "support/seeding.py")


def record_of(
    config: TrainConfig, directory: Path, device: torch.device, seconds: float, version: dict[str, Any]
) -> dict[str, Any]:
    """Returns the provenance of metrics, which are the first entries of ``metrics.json``.

    The name of the directory gives experiment and variant.

    Args:
        version: :func:`code_version` at the start of the run.
    """
    variant = directory.resolve().parent
    return {
        "experiment": variant.parent.name,
        "variant": variant.name,
        "seed": config.seed,
        "T0": config.late_phase.reached(config.epochs),
        "config_hash": config_hash(config),
        **version,
        "device": device_name(device),
        "torch": torch.__version__,
        "seconds": round(seconds, 3),
    }


def code_version() -> dict[str, Any]:
    """Returns the commit, for people, and a hash of the computing code, which is the same if two commits compute the same."""
    return {"git_commit": git_commit(), "code": code_digest()}


@functools.cache
def code_digest(package: Path = PACKAGE) -> str:
    """Returns a hash of the code that results depend on, without its comments, docstrings, errors and layout."""
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if "/" not in name or name.startswith((*COMPUTING, *COMPUTING_TOO)):
            tree = _Computing().visit(ast.parse(path.read_bytes()))
            total.update(f"{name}\n{ast.unparse(tree)}\n".encode())
    return total.hexdigest()[:16]


class _Computing(ast.NodeTransformer):
    """Removes code that changes no result: strings that are statements, such as docstrings, and raised errors."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return ast.Pass() if isinstance(node.value, ast.Constant) else node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return ast.Raise()


def git_commit(code: Path = PACKAGE) -> str | None:
    """Returns the commit of the folder ``code``, with ``-dirty`` if it has changed or new files; None outside of a repository.

    Files elsewhere, such as the results of runs, don't count.
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
