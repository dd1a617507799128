"""The examples run as their users run them, with few epochs. An example whose packages aren't installed is skipped."""

from __future__ import annotations

import copy
import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from PIL import Image
from torchvision.models import resnet18

EXAMPLES = ROOT / "examples"
pytestmark = pytest.mark.timeout(600)  # each example trains, in processes of its own


def needs(package: str) -> pytest.MarkDecorator:
    """Skips a test without the package. Unlike ``importorskip`` it doesn't import the package, which takes seconds."""
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"needs {package}")


def accuracies_in(output: str) -> dict[str, float]:
    """Returns the test accuracies that an example prints, by the name of the model."""
    lines = re.findall(r"^(\S.*?) +test accuracy ([\d.]+)%, test loss [\d.]+$", output, re.MULTILINE)
    return {model: float(accuracy) / 100 for model, accuracy in lines}


def run(folder: Path, name: str, *arguments: str, launcher: tuple[str, ...] = ()) -> dict[str, float]:
    """Runs an example in a folder, in a process of its own. Returns its test accuracies."""
    command = [sys.executable, *launcher, str(EXAMPLES / name), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    end = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert end.returncode == 0, end.stderr
    return accuracies_in(end.stdout)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_plain_loop_resumes_to_the_same_weights(main, tmp_path):
    def run_here(*arguments: str) -> dict[str, float]:
        status, output = main("--epochs=4", *arguments, script="examples/plain_loop.py")
        assert status == 0, output
        return accuracies_in(output)

    accuracies = run_here("--save=whole.pt")
    assert list(accuracies) == ["plain model", "late-phase model", "ensemble of members"]
    assert min(accuracies.values()) > 0.5

    assert run_here("--checkpoint=run.pt", "--stop-after=3") == {}
    assert torch.load(tmp_path / "run.pt")["late"]["members"] is not None
    assert run_here("--checkpoint=run.pt", "--save=resumed.pt") == accuracies
    whole = torch.load(tmp_path / "whole.pt")
    assert same(whole, torch.load(tmp_path / "resumed.pt"))
    runpy.run_path(str(EXAMPLES / "plain_loop.py"))["convnet"]().load_state_dict(whole, strict=True)


@pytest.mark.slow
def test_fine_tuning_learns_the_digits(tmp_path):
    accuracies = run(tmp_path, "fine_tune_torchvision.py", "--epochs=2", "--save=resnet18.pt")
    assert list(accuracies) == ["plain model", "late-phase model"]
    assert min(accuracies.values()) > 0.3
    assert [path.name for path in tmp_path.iterdir()] == ["resnet18.pt"]
    resnet18(num_classes=10).load_state_dict(torch.load(tmp_path / "resnet18.pt"), strict=True)


@pytest.mark.slow
def test_fine_tuning_takes_a_folder_of_ones_own(tmp_path):
    for split in ("train", "test"):
        for label in ("dark", "light"):
            (tmp_path / "photos" / split / label).mkdir(parents=True)
            for i in range(16):
                image = Image.new("RGB", (40, 30), (i, i, i) if label == "dark" else (255 - i, 255, 255))
                image.save(tmp_path / "photos" / split / label / f"{i}.jpg")
    run(tmp_path, "fine_tune_torchvision.py", "--folder=photos", "--epochs=1", "--save=single.pt")
    resnet18(num_classes=2).load_state_dict(torch.load(tmp_path / "single.pt"), strict=True)


@pytest.mark.slow
@needs("transformers")
def test_the_transformer_learns_and_is_saved(tmp_path):
    accuracies = run(tmp_path, "hugging_face.py", "--epochs=4", "--save=bert")
    assert list(accuracies) == ["plain model", "late-phase model", "ensemble of members"]
    assert min(accuracies.values()) > 0.6
    assert {path.name for path in (tmp_path / "bert").iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.slow
@needs("lightning")
def test_lightning_resumes_to_the_same_weights(tmp_path):
    accuracies = run(tmp_path, "lightning_module.py", "--epochs=4", "--checkpoints=checkpoints", "--save=whole.pt")
    assert list(accuracies) == ["plain model", "late-phase model"]
    assert min(accuracies.values()) > 0.5

    resume = ["--resume=checkpoints/epoch=2.ckpt", "--checkpoints=others", "--save=resumed.pt"]
    assert run(tmp_path, "lightning_module.py", "--epochs=4", *resume) == accuracies
    assert same(torch.load(tmp_path / "whole.pt"), torch.load(tmp_path / "resumed.pt"))


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    accuracies = run(tmp_path, "data_parallel.py", "--epochs=6", "--save=single.pt", launcher=torchrun)
    assert list(accuracies) == ["plain model", "late-phase model", "ensemble of members"]
    assert min(accuracies.values()) > 0.5
    convnet = runpy.run_path(str(EXAMPLES / "data_parallel.py"))["convnet"]
    convnet().load_state_dict(torch.load(tmp_path / "single.pt"), strict=True)


def test_the_readme_lists_all_examples():
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\w+\.py)\)", readme)) == {path.name for path in EXAMPLES.glob("*.py")}


@pytest.mark.slow
@needs("nbclient")
def test_the_notebook_runs_and_draws_its_figure(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    committed = nbformat.read(EXAMPLES / "late_phase.ipynb", as_version=4)
    nbformat.validate(committed)
    notebook = copy.deepcopy(committed)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.source = [], re.sub(r"^EPOCHS = \d+$", "EPOCHS = 4", cell.source, flags=re.MULTILINE)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    assert (tmp_path / "single.pt").exists()
    for found in (committed, notebook):
        kinds = {kind for cell in found.cells for output in cell.get("outputs", []) for kind in output.get("data", {})}
        assert "image/png" in kinds
