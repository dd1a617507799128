"""The structure that CONTRIBUTING.md draws: arrows point one way, and what is special about a method or a task is in its room."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "src" / "late_phase"
FRONT_DOOR = PACKAGE / "__init__.py"  # names what is in the house, on all floors
MODULES = sorted(PACKAGE.rglob("*.py"))
FLOORS = (
    {"method"},
    {"support"},
    {"config"},
    {"layers"},
    {"data", "architectures", "optimization"},
    {"evaluation"},
    {"tasks", "methods"},
    {"runs"},
    {"training", "suites", "reporting"},
    {"command_line", "benchmark", "nqp"},
    {"export"},
)
"""Folders from the lowest to the highest; ``method`` are the modules that are in no folder. What is on one floor is apart."""


def folder_of(parts: tuple[str, ...]) -> str:
    """The folder of a module below the package, by the parts of its path or of its dotted name."""
    return parts[0] if (PACKAGE / parts[0]).is_dir() else "method"


def floor(folder: str) -> int:
    return next(number for number, folders in enumerate(FLOORS) if folder in folders)


def imports(path: Path) -> Iterator[str]:
    """Whole names of all of the package's modules that a module imports, anywhere in it, for types too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "late_phase":
            yield from (f"late_phase.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("late_phase."):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("late_phase."))


@pytest.mark.parametrize("path", [path for path in MODULES if path != FRONT_DOOR], ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_down(path):
    own = folder_of(path.relative_to(PACKAGE).with_suffix("").parts)
    for name in imports(path):
        other = folder_of(tuple(name.split(".")[1:]))
        assert other == own or floor(other) < floor(own), f"{own} imports {name}"


def test_every_folder_has_a_floor():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders | {"method"} == set().union(*FLOORS)


def test_no_module_is_long():
    assert {path.name: n for path in MODULES if (n := len(path.read_text(encoding="utf-8").splitlines())) > 300} == {}


def test_imports_make_no_circle():
    def names(path: Path) -> set[str]:
        known = {".".join(("late_phase", *other.relative_to(PACKAGE).with_suffix("").parts)) for other in MODULES}
        return {name for name in imports(path) if name in known}

    left = {".".join(("late_phase", *path.relative_to(PACKAGE).with_suffix("").parts)): names(path) for path in MODULES}
    while free := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in free:
            del left[name]
    assert not left


ROOMS = {
    r"(?i:swag)": {"methods/swag.py"},
    r"(?i:mc_?dropout)": {"methods/dropout.py"},
    r"BatchEnsemble|batch_ensemble": {"methods/batch_ensemble.py", "layers/batch_ensemble.py"},
    r"isinstance\([^()]*Config\b": set(),
}
"""What is written only where it belongs."""


@pytest.mark.parametrize("words", ROOMS)
def test_methods_are_known_in_their_rooms_only(words):
    found = {path for path in MODULES if re.search(words, path.read_text(encoding="utf-8"))}
    assert {str(path.relative_to(PACKAGE)) for path in found} == ROOMS[words]
