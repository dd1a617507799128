"""A package of the user's adds a method, architectures, an optimizer and a suite: nothing of this repository is changed for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from runs import TINY, history
from safetensors.torch import load_file

CHOICES = ("averaging=midrange", "architecture=two_layers")


PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as an installer leaves it: a package, and beside it what says which entry points it has. Beside its folder a run."""
    site = Path(shutil.copytree(PLUGIN, tmp_path_factory.mktemp("trained") / "site"))
    done = train(site)
    assert not done.returncode and "midrange: test accuracy" in done.stdout, done.stderr
    return site


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PLUGIN, tmp_path / "site"))


def python(site: Path, *command: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{site}"}
    script = [sys.executable, str(ROOT / command[0]), *command[1:]]
    return subprocess.run(script, cwd=site.parent, env=environment, capture_output=True, text=True, check=False)


def train(site: Path, *overrides: str) -> subprocess.CompletedProcess:
    return python(site, "train.py", "--config-dir", str(site / "configs"), *CHOICES, *TINY, *overrides, "hydra.run.dir=run")


def test_a_plug_in_trains_and_is_evaluated(trained):
    run = trained.parent / "run"
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    assert list(metrics) == ["single", "ensemble", "midrange"] and metrics["midrange"] != metrics["single"]
    checkpoint, exported = torch.load(run / "checkpoint.pt", weights_only=True), load_file(run / "midrange" / "model.safetensors")
    low, high = (checkpoint["averaging"][key]["0.weight"] for key in ("low", "high"))
    assert torch.equal(low.lerp(high, 0.5), exported["0.weight"]) and not torch.equal(low, high)
    assert len(history(run)) == 4

    done = python(trained, "scripts/evaluate.py", "run=run", "suite=confidence")
    assert not done.returncode and "confidence, digits" in done.stdout, done.stderr
    record = json.loads((run / "evaluation" / "confidence.json").read_text())
    assert set(record["metrics"]) == set(metrics) and record["images"] == 40
    assert all(0.1 < row["confidence"] <= 1 for row in record["metrics"].values())


def test_a_language_model_need_not_be_an_lstm_without_dropout(trained):
    choices = ("dataset=pydocs", "architecture=gru", "optimizer=radam", "late_phase=layernorm", "+debug=smoke_text")
    done = python(
        trained, "train.py", "--config-dir", str(trained / "configs"), *choices, "runtime.progress=false", "hydra.run.dir=text"
    )
    assert not done.returncode, done.stderr
    assert list(json.loads((trained.parent / "text" / "metrics.json").read_text())["metrics"]) == ["single", "ensemble"]


def test_a_choice_without_its_config_is_told_so(installed):
    done = python(installed, "train.py", "averaging=midrange")
    assert done.stderr == "error: averaging=midrange has no config: give the folder of averaging/midrange.yaml with --config-dir.\n"
    config = installed / "configs" / "averaging" / "midrange.yaml"
    config.write_text(config.read_text().replace("  - /schema/averaging/midrange@_here_\n", ""))
    done = train(installed)
    assert done.stderr == (
        "error: averaging.start has no type: start the defaults in the config of averaging=NAME with "
        "- /schema/averaging/NAME@_here_.\n"
    )


COMPOSE = """
import pickle, sys
from hydra import compose, initialize_config_dir
from late_phase.command_line.hydra_jobs import load_plugins, register_schemas
load_plugins(), register_schemas()
with initialize_config_dir(sys.argv[1], version_base="1.3"):
    composed = compose("train", sys.argv[2:], return_hydra_config=True)
sys.stdout.buffer.write(pickle.dumps(composed))
"""
RUN = """
import pickle, sys
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict
from late_phase.command_line.hydra_jobs import run_job
composed = pickle.load(sys.stdin.buffer)
HydraConfig.instance().set_config(composed.copy())
with open_dict(composed):
    del composed["hydra"]
run_job(composed, lambda config, directory: print(config.averaging.name, "is known"))
"""


def test_the_process_of_a_launcher_knows_the_choices_of_plug_ins(installed):
    """It is given the composed config, and has not seen the command line."""
    (installed / "registers.py").write_text((installed / "midrange_plugin" / "__init__.py").read_text())
    (installed / "midrange_plugin" / "__init__.py").write_text("")
    (installed / "midrange_plugin-1.0.dist-info" / "entry_points.txt").write_text("[late_phase]\nmidrange = registers\n")
    shutil.copytree(ROOT / "configs", installed / "configs", dirs_exist_ok=True)
    out = ["hydra.run.dir=run", "hydra.runtime.output_dir=run", "hydra.mode=RUN"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{installed}"}
    arguments = [str(installed / "configs"), *CHOICES, *TINY, *out]
    options = {"cwd": installed.parent, "env": environment, "capture_output": True, "check": False}
    composed = subprocess.run([sys.executable, "-c", COMPOSE, *arguments], **options)
    done = subprocess.run([sys.executable, "-c", RUN], input=composed.stdout, **options)
    assert done.stdout == b"midrange is known\n", (composed.stderr, done.stderr)


def test_what_a_plug_in_refuses_is_told_as_all_else(installed):
    done = train(installed, "averaging.place=-1")
    assert done.returncode == 1
    assert done.stderr == "error: averaging.place=-1.0 is out of range: choose a number of at least 0.\n"


def test_a_plug_in_that_is_broken_is_named(installed):
    (installed / "midrange_plugin" / "__init__.py").write_text("import nowhere\n")
    done = python(installed, "train.py")
    assert done.returncode == 1
    assert done.stderr == (
        "error: the plug-in midrange=midrange_plugin can't be loaded (ModuleNotFoundError: No module named 'nowhere'): fix it, "
        "or uninstall its package.\n"
    )


def test_without_its_plug_in_a_run_is_not_read(trained):
    command = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), f"run={trained.parent / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "config.yaml is not the config of a run (architecture=two_layers is unknown, so its plug-in may be" in done.stderr
