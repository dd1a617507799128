"""What is imported when it is used: every name leads somewhere, and nothing is imported before."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import late_phase
from late_phase.config.choices import CHOICES
from late_phase.data import CORRUPTED
from late_phase.support.lazy import Lazy

LAZY = {name: choice.build for group in ("architecture", "dataset") for name, choice in CHOICES[group].items()} | CORRUPTED


@pytest.mark.parametrize("name", LAZY)
def test_each_name_leads_to_what_can_be_called(name):
    lazy = LAZY[name]
    function = lazy.resolve()
    assert getattr(function, "func", function).__module__.startswith(("late_phase.architectures.", "late_phase.data."))
    inspect.signature(function)  # takes the arguments that are given already
    assert lazy.arguments in ((), (name,))


@pytest.mark.parametrize("group", [group for group in CHOICES if group != "schedule"])
def test_the_names_are_those_of_the_configs(group):
    assert set(CHOICES[group]) == {path.stem for path in (ROOT / "configs" / group).glob("*.yaml")}


def test_a_name_that_leads_nowhere_is_an_error():
    for name in ("late_phase.data.digits.lode", "late_phase.data.digit.load"):
        with pytest.raises((AttributeError, ModuleNotFoundError)):
            Lazy(name).resolve()


def test_arguments_are_passed_on():
    assert Lazy("math.pow", 2)(5) == 32
    assert Lazy("json.dumps")({"a": 1}, indent=None) == '{"a": 1}'


def test_the_package_has_its_names_without_importing_torch():
    assert set(late_phase.__all__) <= set(dir(late_phase))
    for name in late_phase.__all__:
        value = getattr(late_phase, name)
        assert value.__name__ == name and value.__module__.startswith("late_phase.")
    with pytest.raises(AttributeError, match="module 'late_phase' has no attribute 'LatePhases'"):
        late_phase.LatePhases  # noqa: B018
    code = (
        "import sys, late_phase; assert 'torch' not in sys.modules; from late_phase import LatePhase, head; "
        "assert LatePhase is late_phase.LatePhase and 'torch' in sys.modules; "
        "assert not {'torchvision', 'hydra', 'omegaconf', 'safetensors', 'sklearn', 'scipy', 'wandb', 'matplotlib', "
        "'numpy.testing'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "src")}, check=True)


HEAVY = {"torch", "torchvision", "sklearn", "scipy", "numpy", "matplotlib", "PIL", "safetensors", "wandb", "tqdm"}
MODULES_AT_EXIT = """
import atexit, runpy, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def imported_by(*command: str, folder: Path) -> tuple[set[str], str]:
    """All modules that a script has imported at its end, and what it says before on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", MODULES_AT_EXIT, str(ROOT / command[0]), *command[1:]],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    *said, modules = done.stderr.splitlines()
    return set(modules.split()), "\n".join(said)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train.py", "epocs=3"], "did you mean epochs?"),
        (["train.py", "late_phase.T0=300"], "is after the last epoch"),
        (["train.py", "--help"], ""),
        (["scripts/evaluate.py", "rnu=a"], "did you mean run?"),
        (["scripts/evaluate.py", "run=a", "suite=calibratoin"], "suite=calibratoin is unknown"),
        (["scripts/report.py", "--help"], ""),
        (["scripts/prepare_data.py", "cifra10"], "'cifra10' is not one of digits"),
    ],
)
def test_a_mistake_is_told_before_anything_large_is_imported(tmp_path, command, message):
    imported, said = imported_by(*command, folder=tmp_path)
    assert message in said
    assert "late_phase.support.console" in imported and not imported & HEAVY


def test_a_run_imports_what_was_chosen_only(tmp_path):
    imported, said = imported_by("train.py", "+debug=smoke", "runtime.progress=false", folder=tmp_path)
    assert not said
    assert {"torch", "sklearn", "late_phase.data.digits", "late_phase.architectures.lenet"} <= imported
    assert not imported & {"torchvision", "matplotlib", "wandb", "late_phase.data.cifar", "late_phase.architectures.wide_resnet"}
