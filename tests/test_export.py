"""The single model of a run, loaded in one line, and as a folder with a model card."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import TINY
from safetensors.torch import load_file

import late_phase
from late_phase.data.images import Normalization
from late_phase.data.text import Vocabulary
from late_phase.export.folder import export
from late_phase.support.errors import UserError
from late_phase.tasks.images import ImageTask
from late_phase.training.loop import run


@pytest.fixture(scope="module")
def trained(tmp_path_factory, composed) -> Path:
    """The folder above one run."""
    folder = tmp_path_factory.mktemp("trained")
    run(composed(*TINY), folder / "own" / "default" / "seed=0")
    return folder


def test_a_model_is_loaded_without_its_dataset_and_predicts_what_the_run_predicted(trained, composed):
    model = late_phase.load(trained)
    assert not model.training and isinstance(model.encoding, Normalization)
    task = ImageTask.load(composed(*TINY).dataset)
    with torch.no_grad():
        log_probs = model(model.encoding(task.test.pixels)).log_softmax(-1)
    predicted = load_file(trained / "own" / "default" / "seed=0" / "predictions" / "test.safetensors")
    assert torch.allclose(log_probs, predicted["single"][0], atol=1e-5)


def test_a_folder_has_what_it_needs_and_says_what_is_in_it(trained, tmp_path):
    seed = trained / "own" / "default" / "seed=0"
    written = export(trained, tmp_path / "folder", program=32)
    assert {path.name for path in written} == {path.name for path in (tmp_path / "folder").iterdir()}
    assert set(load_file(tmp_path / "folder" / "model.safetensors")) == set(load_file(seed / "model.safetensors"))

    card = (tmp_path / "folder" / "README.md").read_text(encoding="utf-8")
    metrics = json.loads((seed / "metrics.json").read_text())["metrics"]["single"]
    assert f"| test accuracy (%)    | {100 * metrics['test_accuracy']:.2f} " in card
    assert "| K, T0, σ0, γ_θ     | 3, 1, 0.0, 1.0 " in card and all(
        f"`{path.name}`" in card or path.name == "README.md" for path in written
    )

    images = torch.randint(0, 256, (5, 1, 32, 32), dtype=torch.uint8)
    model, program = late_phase.load(tmp_path / "folder"), torch.export.load(tmp_path / "folder" / "model.pt2").module()
    with torch.no_grad():
        assert torch.allclose(program(model.encoding(images)), model(model.encoding(images)), atol=1e-6)


def test_the_card_is_run_as_it_stands(trained, tmp_path):
    export(trained, tmp_path / "folder")
    block = (tmp_path / "folder" / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    names = {"inputs": torch.zeros(2, 1, 32, 32, dtype=torch.uint8)}
    exec(block.replace("FOLDER", str(tmp_path / "folder")), names)
    assert names["logits"].shape == (2, 10)


@pytest.mark.parametrize("experiment", ["pydocs_lstm_lprank1", "pydocs_gpt_base"])
def test_a_language_model_is_loaded_as_well(experiment, tmp_path, composed):
    run(composed(f"+experiment={experiment}", "+debug=smoke_text", "dataset.minibatches=null"), tmp_path / "run")
    model = late_phase.load(tmp_path / "run")
    assert isinstance(model.encoding, Vocabulary)
    logits, _ = model(torch.zeros(9, 2, dtype=torch.int64))
    assert logits.shape == (9, 2, len(model.encoding))
    export(tmp_path / "run", tmp_path / "plain")
    assert torch.equal(late_phase.load(tmp_path / "plain")(torch.zeros(9, 2, dtype=torch.int64))[0], logits)
    with pytest.raises(UserError, match="--program 32 is for models of images: leave it out"):
        export(tmp_path / "run", tmp_path / "folder", program=32)


def test_there_has_to_be_one_whole_run_with_a_single_model(trained, tmp_path, composed):
    with pytest.raises(UserError, match=r"has no finished run: give a directory with metrics\.json and model\.safetensors"):
        late_phase.load(tmp_path)
    for seed in (0, 1):
        shutil.copytree(trained / "own" / "default" / "seed=0", tmp_path / "own" / "default" / f"seed={seed}")
    with pytest.raises(UserError, match=r"has 2 finished runs, such as .*seed=0: give the directory of one"):
        late_phase.load(tmp_path)
    (tmp_path / "own" / "default" / "seed=1" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing or damaged"):
        late_phase.load(tmp_path / "own" / "default" / "seed=1")
    with pytest.raises(UserError, match="is a run: choose another folder"):
        export(trained, tmp_path / "own" / "default" / "seed=0")

    run(composed(*TINY, "late_phase=none", "late_phase.K=1", "late_phase.T0=null", "ensemble=batch_ensemble"), tmp_path / "other")
    with pytest.raises(UserError, match=r"is not the single model of ensemble=batch_ensemble"):
        late_phase.load(tmp_path / "other")


def test_without_the_extra_a_sentence_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['safetensors'] = None; import late_phase; late_phase.load"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "late_phase.load needs safetensors: pip install 'late-phase[train]'." in found.stderr


def test_a_folder_of_another_export_is_replaced_whole(trained, tmp_path):
    export(trained, tmp_path / "folder", program=32)
    export(trained, tmp_path / "folder")
    assert not (tmp_path / "folder" / "model.pt2").exists() and (tmp_path / "folder" / "metrics.json").exists()


def test_nothing_is_written_where_the_program_fails(trained, tmp_path):
    with pytest.raises(UserError, match=r"--program 20 failed .*: choose another size, or leave it out"):
        export(trained, tmp_path / "folder", program=20)
    assert not (tmp_path / "folder").exists()
