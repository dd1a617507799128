"""What is imported when it is used: every name leads somewhere, and nothing is imported before."""

from __future__ import annotations

import inspect
import subprocess
import sys

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
        "assert not {'torchvision', 'hydra', 'omegaconf', 'safetensors', 'numpy.testing'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "src")}, check=True)
