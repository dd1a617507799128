"""Where numbers come from."""

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
"""Folders of the package whose code the numbers of a run depend on, beside the method's own modules at the top, and these:"""
COMPUTING_TOO = ("support/devices.py", "support/seeding.py")


def record_of(
    config: TrainConfig, directory: Path, device: torch.device, seconds: float, version: dict[str, Any]
) -> dict[str, Any]:
    """Where metrics come from: the first entries of ``metrics.json``. Experiment and variant are those of the directory's name.

    Args:
        version: :func:`code_version` at the start.
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
    """The commit, for people, and a hash of what the code computes: the same for two commits that compute the same."""
    return {"git_commit": git_commit(), "code": code_digest()}


@functools.cache
def code_digest(package: Path = PACKAGE) -> str:
    """A hash of the code that results depend on, without its comments, docstrings, errors and layout."""
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if "/" not in name or name.startswith((*COMPUTING, *COMPUTING_TOO)):
            tree = _Computing().visit(ast.parse(path.read_bytes()))
            total.update(f"{name}\n{ast.unparse(tree)}\n".encode())
    return total.hexdigest()[:16]


class _Computing(ast.NodeTransformer):
    """Leaves out what changes no result: strings that are statements, as docstrings are, and what is raised."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return ast.Pass() if isinstance(node.value, ast.Constant) else node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return ast.Raise()


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
