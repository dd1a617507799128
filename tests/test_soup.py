"""Soups of runs against averages by hand, and what makes no soup."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import TINY, files_in
from safetensors.torch import load_file, save_file

import late_phase
from late_phase import recompute_running_statistics
from late_phase.config.training import TrainConfig
from late_phase.data.batches import Augmentation, TrainingBatches
from late_phase.export.soup import soup
from late_phase.support.errors import UserError
from late_phase.tasks.images import ImageTask
from late_phase.training.loop import run

CPU = torch.device("cpu")
SMALL = (*TINY, "dataset.validation=200", "optimizer.lr=0.005")
TUNED = ("epochs=2", "late_phase.T0=1")


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory, composed: Callable[..., TrainConfig]) -> Path:
    """Four runs from the weights of one, with other seeds and learning rates; the last has unlearned what it began with."""
    folder = tmp_path_factory.mktemp("kitchen")
    run(composed(*SMALL), folder / "base" / "default" / "seed=0")
    for number, own in enumerate(((), ("seed=1",), ("seed=2", "optimizer.lr=0.01"), ("optimizer.lr=0.5", "max_grad_norm=5"))):
        config = composed(*SMALL, *TUNED, f"architecture.weights='{folder / 'base' / 'default' / 'seed=0'}'", *own)
        run(config, folder / "tuned" / f"variant{number}" / f"seed={config.seed}")
    return folder


def of(kitchen: Path) -> list[Path]:
    return sorted((kitchen / "tuned").glob("*/seed=*"))


def by_hand(kitchen: Path, runs: list[Path], config: TrainConfig) -> torch.nn.Module:
    """The mean of the exported weights, with statistics from the epoch after the last."""
    model = late_phase.load(runs[0])
    if len(runs) > 1:
        states = [load_file(path / "model.safetensors") for path in runs]
        for name, parameter in model.named_parameters():
            parameter.data.copy_(torch.stack([state[name] for state in states]).mean(0))
        images = ImageTask.load(config.dataset).train
        batches = TrainingBatches(images, model.encoding, Augmentation(crop_padding=config.dataset.crop_padding), 8, 0, False)
        recompute_running_statistics(model, batches.epoch(2))
    return model.eval()


def test_a_uniform_soup_is_the_mean_of_the_weights(kitchen, tmp_path, composed):
    record, _ = soup([kitchen / "tuned"], tmp_path / "soup", False, CPU)
    expected = by_hand(kitchen, of(kitchen), composed(*SMALL)).state_dict()
    for name, value in load_file(tmp_path / "soup" / "model.safetensors").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    assert set(record["soup"]["runs"]) == set(map(str, of(kitchen))) and record["soup"]["of"] == 4
    assert record == json.loads((tmp_path / "soup" / "metrics.json").read_text())


def test_a_greedy_soup_takes_what_makes_it_no_worse_on_validation_data(kitchen, tmp_path, composed):
    """By an own loop, in which test data don't occur."""
    record, _ = soup([kitchen / "tuned"], tmp_path / "soup", True, CPU)
    data = ImageTask.load(composed(*SMALL).dataset)

    def accuracy(runs: list[Path]) -> float:
        model = by_hand(kitchen, runs, composed(*SMALL))
        with torch.no_grad():
            return (model(model.encoding(data.validation.pixels)).argmax(1) == data.validation.labels).float().mean().item()

    alone = {path: accuracy([path]) for path in of(kitchen)}
    # Runs are in the order of their paths where they are equally good.
    order = sorted(of(kitchen), key=lambda path: -alone[path])
    chosen = order[:1]
    for path in order[1:]:
        if accuracy([*chosen, path]) >= accuracy(chosen):
            chosen.append(path)
    assert record["soup"]["runs"] == list(map(str, chosen)) and 1 < len(chosen) < 4
    tried = record["soup"]["tried"]
    assert [row["run"] for row in tried] == list(map(str, order))
    assert [row["validation_accuracy_alone"] for row in tried] == pytest.approx([alone[path] for path in order])
    assert record["metrics"]["single"]["validation_accuracy"] == pytest.approx(accuracy(chosen))
    assert accuracy(chosen) > max(alone.values())


def test_the_evaluation_and_others_read_a_soup_as_a_run(kitchen, tmp_path, main):
    runs = [str(path) for path in of(kitchen)]
    status, output = main(*runs[:3], "--to", "soup", script="scripts/soup.py")
    assert status == 0 and output.count("in the soup: ") == 3 and "single: test accuracy" in output
    record = json.loads(Path("soup/metrics.json").read_text())
    assert main("run=soup", "suite=accuracy", script="scripts/evaluate.py")[0] == 0
    assert json.loads(Path("soup/evaluation/accuracy.json").read_text())["metrics"] == record["metrics"]
    assert not late_phase.load("soup").training
    status, _ = main(*runs[:2], "--to", "soup", "--greedy", script="scripts/soup.py")  # again, with other runs
    assert status == 0 and json.loads(Path("soup/metrics.json").read_text())["soup"]["greedy"] is True


def test_what_is_no_soup(kitchen, tmp_path, composed):
    base, tuned = kitchen / "base" / "default" / "seed=0", of(kitchen)

    def refused(pattern: str, *places: Path, to: Path = tmp_path / "soup", greedy: bool = False) -> None:
        with pytest.raises(UserError, match=pattern) as caught:
            soup(places, to, greedy, CPU)
        assert "\n" not in str(caught.value) and not (tmp_path / "soup").exists()

    def changed(old: str, new: str, of: Path = tuned[1]) -> Path:
        copy = Path(shutil.copytree(of, tmp_path / f"changed{len(list(tmp_path.iterdir()))}" / "seed=1"))
        text = (copy / "config.yaml").read_text()
        assert old in text
        (copy / "config.yaml").write_text(text.replace(old, new))
        record = json.loads((copy / "metrics.json").read_text())
        (copy / "metrics.json").write_text(json.dumps(record | {"variant": copy.parent.name}))
        return copy

    refused("a soup needs at least 2 runs, and there is 1: give more", tuned[0])
    refused("a soup needs at least 2 runs, and there is 1: give more", tuned[0], tuned[0])
    refused(r"--to .* is a run: choose another folder", *tuned, to=tuned[0])
    refused(r"base/default/seed=0 began from its own random weights, .*: give runs with the same", base, tuned[0])
    refused(r"differ \(architecture\.weights: .*\): give runs of one", tuned[0], changed("base/default", "other/default"))
    refused(r"differ \(dataset\.subset: 50 -> 60\): give runs of one", tuned[0], changed("subset: 60", "subset: 50"))
    refused("running_statistics=folded, so its weights contain", tuned[0], changed("statistics: mean", "statistics: folded"))
    (broken := changed("seed: 1", "seed: 1")).joinpath("model.safetensors").write_bytes(b"")
    refused(r"is damaged \(.*\): train it again", tuned[0], broken)

    options = ("late_phase=none", "late_phase.K=1", "late_phase.T0=null", "dataset.validation=0", "epochs=1")
    for seed in (0, 1):
        run(composed(*TINY, *options, f"architecture.weights='{base}'", f"seed={seed}"), tmp_path / "blind" / "x" / f"seed={seed}")
    refused("--greedy chooses by validation data, and these runs have none", tmp_path / "blind", greedy=True)

    shutil.rmtree(tmp_path / "blind")
    for seed in (0, 1):
        own = (*options, "ensemble=batch_ensemble", "ensemble.K=2", f"architecture.weights='{base}'", f"seed={seed}")
        run(composed(*own[:1], own[5], *TINY, *own[1:5], *own[6:]), tmp_path / "blind" / "x" / f"seed={seed}")
    refused("has no single model with ensemble=batch_ensemble: give runs with ensemble=none", tmp_path / "blind")


def test_given_weights_without_a_fitting_last_layer_are_no_common_start(kitchen, tmp_path):
    """Each run has drawn a last layer of its own."""
    given = tmp_path / "given.safetensors"
    state = load_file(kitchen / "base" / "default" / "seed=0" / "model.safetensors")
    save_file(state | {"head.weight": state["head.weight"][:7].clone(), "head.bias": state["head.bias"][:7].clone()}, given)
    for path in of(kitchen)[:2]:
        copy = Path(shutil.copytree(path, tmp_path / path.parent.name / path.name))
        text = (copy / "config.yaml").read_text()
        (copy / "config.yaml").write_text(text.replace(str(kitchen / "base" / "default" / "seed=0"), str(given)))
    with pytest.raises(UserError, match=r"given\.safetensors.*head\.weight \[7, 84\] instead of \[10, 84\]"):
        soup(sorted(tmp_path.glob("variant*")), tmp_path / "soup", False, CPU)
    assert "soup" not in {name.split("/")[0] for name in files_in(tmp_path)}


def test_a_soup_of_language_models(tmp_path, composed):
    """Bits per character decide, of which fewer are better."""
    overrides = ("+experiment=pydocs_lstm_base", "+debug=smoke_text", "averaging=none", "averaging.start=null")
    run(composed(*overrides), tmp_path / "base" / "default" / "seed=0")
    weights = f"architecture.weights='{tmp_path / 'base' / 'default' / 'seed=0'}'"
    for seed in (0, 1, 2):
        config = composed(*overrides, weights, f"optimizer.lr=0.00{seed + 1}", f"seed={seed}")
        run(config, tmp_path / "tuned" / "x" / f"seed={seed}")
    record, in_words = soup([tmp_path / "tuned"], tmp_path / "soup", True, CPU)
    best = min(row["validation_bpc_alone"] for row in record["soup"]["tried"])
    assert record["metrics"]["single"]["validation_bpc"] <= best + 1e-6 and "bits per character" in in_words(
        record["metrics"]["single"]
    )
    tried = [row["validation_bpc_alone"] for row in record["soup"]["tried"]]
    assert tried == sorted(tried) and len(tried) == 3
