"""Runs from config to metrics: what they write, and that nothing that happens to them changes it."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import ROOT
from pictures import images
from runs import TINY, StopAfter, assert_same_results, files_in, history, run_until
from safetensors.torch import load_file

from late_phase import LatePhase
from late_phase.architectures import build
from late_phase.config.training import TrainConfig
from late_phase.runs.models import models_of_runs
from late_phase.support.errors import UserError
from late_phase.training.loop import run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, composed: Callable[..., TrainConfig]) -> Path:
    """The directory of a run to which nothing happened."""
    directory = tmp_path_factory.mktemp("undisturbed") / "digits" / "tiny" / "seed=0"
    run(composed(*TINY), directory)
    return directory


def test_the_history_has_the_norm_of_weights(undisturbed):
    """Of all but biases, scales and shifts, in the live model. It has the first member's head after the last iteration."""
    head = load_file(undisturbed / "members.safetensors")["head.weight"][0]
    weights = [v for v in (load_file(undisturbed / "model.safetensors") | {"head.weight": head}).values() if v.ndim > 1]
    norm = sum(float(value.double().square().sum()) for value in weights) ** 0.5
    assert float(history(undisturbed)[-1]["weight_norm"]) == pytest.approx(norm, rel=1e-6)


def test_base_weights_get_their_own_weight_decay_at_t0(composed, tmp_path):
    """With hardly any gradient and no momentum, weight decay alone moves θ. A run that goes on keeps it."""
    late = ["late_phase.weight_decay=0.001", "late_phase.theta_weight_decay=0.5", "late_phase.gamma_theta=1e-30"]
    still = ["schedule=constant", "optimizer.weight_decay=0.001", "optimizer.momentum=0", "optimizer.nesterov=false"]
    config = composed(*TINY, *still, *late)
    run(composed(*TINY, *still, "epochs=1"), tmp_path / "until")
    run_until(20, config, tmp_path / "after")
    run(config, tmp_path / "after")
    until, after = (load_file(tmp_path / name / "model.safetensors")["conv1.weight"] for name in ("until", "after"))
    steps = (4 - 1) * 8 // 3  # of θ
    torch.testing.assert_close(after, until * (1 - 0.02 * 0.5) ** steps)


def test_the_run_directory_holds_what_it_promises(undisturbed):
    assert files_in(undisturbed) == {
        "config.yaml",
        "history.csv",
        "checkpoint.pt",
        "checkpoint.previous.pt",
        "model.safetensors",
        "members.safetensors",
        "metrics.json",
        "predictions/train.safetensors",
        "predictions/test.safetensors",
        "predictions/validation.safetensors",
    }
    record = json.loads((undisturbed / "metrics.json").read_text())
    assert record["experiment"] == "digits" and record["variant"] == "tiny" and record["seed"] == 0
    assert record["torch"] == torch.__version__ and record["seconds"] > 0 and len(record["config_hash"]) == 16
    for metrics in record["metrics"].values():
        assert set(metrics) == {f"{s}_{m}" for s in ("test", "validation") for m in ("accuracy", "nll", "ece")} | {"train_loss"}
    rows = history(undisturbed)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["members"] for row in rows] == ["1", "3", "3", "3"]
    assert float(rows[-1]["test_accuracy"]) == record["metrics"]["single"]["test_accuracy"]
    assert float(rows[-1]["test_nll_nats"]) == pytest.approx(record["metrics"]["single"]["test_nll"], rel=1e-6)


def test_the_single_model_is_the_mean_of_the_members_in_the_plain_architecture(undisturbed):
    state = load_file(undisturbed / "model.safetensors")
    build("lenet", 1, 10).load_state_dict(state, strict=True)
    members = load_file(undisturbed / "members.safetensors")
    assert {name.split(".")[0] for name in members} == {"bn1", "bn2", "bn3", "bn4", "head"}
    for name, values in members.items():
        if values.is_floating_point():
            assert values.shape[0] == 3 and not torch.equal(values[0], values[1])
            torch.testing.assert_close(state[name], values.mean(0))


def test_the_checkpoint_loads_without_running_code(undisturbed):
    assert torch.load(undisturbed / "checkpoint.pt", weights_only=True)["epoch"] == 4


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (
            "checkpoint.pt",
            r"is the checkpoint of a run, from which training goes on: choose the model",
        ),
        (
            "checkpoint.previous.pt",
            r"is the checkpoint of a run, from which training goes on: choose the model",
        ),
        ("members.safetensors", r"doesn't fit .*: choose \S+/model\.safetensors, or weights of the same architecture"),
    ],
)
def test_only_the_single_model_of_a_run_is_taken_for_its_weights(undisturbed, file, why):
    with pytest.raises(UserError, match=why):
        build("lenet", 1, 10, weights=str(undisturbed / file))
    for weights in (undisturbed, undisturbed / "model.safetensors"):
        model = build("lenet", 1, 10, weights=str(weights))
        assert torch.equal(model.conv1.weight, load_file(undisturbed / "model.safetensors")["conv1.weight"])


PLACES = [
    "step:5",  # before T0
    "step:20",  # after T0, inside of an iteration and of an epoch
    "saving:3",
    "renaming:2",
    "evaluating",
]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that were killed, each in the folder of its place."""
    folder = tmp_path_factory.mktemp("killed")
    script, directory = ROOT / "tests" / "killed.py", folder / "{place}" / "tiny" / "seed=0"
    done = subprocess.run(
        [sys.executable, str(script), str(directory), ",".join(PLACES), *TINY],
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    return folder


@pytest.mark.parametrize("place", PLACES)
def test_a_killed_run_started_again_ends_with_the_same_bytes(undisturbed, killed, composed, place):
    directory = killed / place.replace(":", "-") / "tiny" / "seed=0"
    assert not (directory / "metrics.json").exists()
    run(composed(*TINY), directory)
    assert_same_results(directory, undisturbed)
    assert files_in(directory) == files_in(undisturbed)


@pytest.mark.parametrize("steps", [3, 8, 12, 22])
def test_sigterm_saves_where_it_is_and_the_same_run_goes_on_from_there(undisturbed, tmp_path, composed, monkeypatch, steps):
    directory = tmp_path / "digits" / "tiny" / "seed=0"
    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        StopAfter(patch, steps)
        with pytest.raises(SystemExit) as stopped:
            run(composed(*TINY), directory)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == handler
    saved = torch.load(directory / "checkpoint.pt", weights_only=True)
    assert saved["epoch"] * 8 + saved["tally"]["batches"] == steps
    run(composed(*TINY), directory)
    assert_same_results(directory, undisturbed)


@pytest.mark.parametrize("damage", ["truncated", "a changed byte", "both"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_used(undisturbed, tmp_path, composed, monkeypatch, damage):
    directory = tmp_path / "digits" / "tiny" / "seed=0"
    run_until(20, composed(*TINY), directory)
    for name in ("checkpoint.pt", "checkpoint.previous.pt")[: 2 if damage == "both" else 1]:
        content = bytearray((directory / name).read_bytes())
        if damage == "a changed byte":
            with zipfile.ZipFile(directory / name) as archive:  # some bytes are padding, which no checksum covers
                largest = max(archive.infolist(), key=lambda entry: entry.file_size)
            lengths = struct.unpack_from("<HH", content, largest.header_offset + 26)  # of the name and the extra field
            content[largest.header_offset + 30 + sum(lengths)] ^= 1
        else:
            del content[len(content) // 2 :]
        (directory / name).write_bytes(content)
    damaged = (directory / "checkpoint.pt").read_bytes()
    replace = Path.replace

    def replace_but_by_damage(path: Path, target: Path) -> Path:
        assert target.name != "checkpoint.previous.pt" or path.read_bytes() != damaged
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replace_but_by_damage)
    with pytest.warns(UserWarning, match=r"checkpoint(\.previous)?\.pt is damaged and skipped"):
        run(composed(*TINY), directory)
    assert_same_results(directory, undisturbed)


def test_one_seed_fixes_everything_and_another_one_changes_it(undisturbed, tmp_path, composed):
    # What a job before in the same process did must not matter.
    torch.manual_seed(7), random.seed(7), np.random.seed(7)
    before = torch.get_rng_state(), torch.get_num_threads()
    run(composed(*TINY), tmp_path / "digits" / "tiny" / "seed=0")
    assert_same_results(tmp_path / "digits" / "tiny" / "seed=0", undisturbed)
    assert torch.equal(torch.get_rng_state(), before[0]) and torch.get_num_threads() == before[1]
    other = run(composed(*TINY, "seed=1"), tmp_path / "digits" / "tiny" / "seed=1")
    assert other["metrics"] != json.loads((undisturbed / "metrics.json").read_text())["metrics"]


def test_a_finished_run_is_not_repeated(undisturbed, composed, capsys):
    before = {name: (undisturbed / name).stat().st_mtime_ns for name in files_in(undisturbed)}
    record = run(composed(*TINY), undisturbed)
    assert record == json.loads((undisturbed / "metrics.json").read_text())
    assert "is finished already" in capsys.readouterr().out
    assert {name: (undisturbed / name).stat().st_mtime_ns for name in files_in(undisturbed)} == before
    run(composed(*TINY, "runtime.threads=1"), undisturbed)  # where it runs is not part of what it is
    with pytest.raises(UserError, match=r"another config \(late_phase.T0: 1 -> 2; optimizer.lr: 0.02 -> 0.03\): move"):
        run(composed(*TINY, "late_phase.T0=2", "optimizer.lr=0.03"), undisturbed)


def test_base_runs_are_plain_training(tmp_path, composed):
    """Without late phase the spine is the plain loop; K = 1, σ0 = 0, γ_θ = 1 after T0 is the same, bit for bit."""
    base = [o for o in TINY if not o.startswith("late_phase")]
    one = run(composed(*base, "+experiment=digits_lenet_base"), tmp_path / "a" / "base" / "seed=0")
    assert set(one["metrics"]) == {"single"}
    assert not (tmp_path / "a" / "base" / "seed=0" / "members.safetensors").exists()
    late = [*base, "late_phase.K=1", "late_phase.sigma0=0", "late_phase.T0=1"]
    other = run(composed(*late), tmp_path / "a" / "late" / "seed=0")
    assert other["metrics"]["single"] == one["metrics"]["single"]
    single, ensemble = other["metrics"]["single"], other["metrics"]["ensemble"]
    assert ensemble == pytest.approx(single, rel=1e-5)


@pytest.mark.parametrize("statistics", ["folded", "recompute"])
def test_running_statistics_of_the_single_model_are_a_choice(undisturbed, tmp_path, composed, statistics):
    directory = tmp_path / "digits" / statistics / "seed=0"
    run(composed(*TINY, f"late_phase.running_statistics={statistics}"), directory)
    assert (directory / "members.safetensors").read_bytes() == (undisturbed / "members.safetensors").read_bytes()
    other, mean = load_file(directory / "model.safetensors"), load_file(undisturbed / "model.safetensors")
    assert torch.equal(other["head.weight"], mean["head.weight"])
    assert not torch.allclose(other["bn1.running_mean"], mean["bn1.running_mean"])


def test_a_loss_that_is_not_finite_stops_the_run_with_the_place(tmp_path, composed):
    directory = tmp_path / "a" / "b" / "seed=0"
    with pytest.raises(UserError, match=r"the loss is (nan|inf) in epoch 1, step \d of 8 \(last good checkpoint: none\)"):
        run(composed(*TINY, "optimizer.lr=1e20"), directory)
    assert files_in(directory) == {"config.yaml"}


def test_a_model_that_broke_in_the_last_step_is_no_result(tmp_path, composed, monkeypatch):
    original = LatePhase.average

    def broken(late: LatePhase, *arguments: object) -> torch.nn.Module:
        single = original(late, *arguments)
        with torch.no_grad():
            single.head.bias.fill_(torch.nan)
        return single

    monkeypatch.setattr(LatePhase, "average", broken)
    with pytest.raises(UserError, match=r"of the trained model \(single\) is nan"):
        run(composed(*TINY), tmp_path / "a" / "b" / "seed=0")
    assert not (tmp_path / "a" / "b" / "seed=0" / "metrics.json").exists()


def test_a_second_process_is_kept_out(tmp_path, composed):
    from late_phase.runs.directory import RunDirectory

    directory = tmp_path / "a" / "b" / "seed=0"
    with RunDirectory(directory).locked(), pytest.raises(UserError, match="in use by another process"):
        run(composed(*TINY), directory)


@pytest.mark.parametrize("module", [None, ModuleType("wandb")], ids=["not there", "a folder of its logs that passes for it"])
def test_wandb_is_asked_for_where_it_is_not_installed(tmp_path, composed, monkeypatch, module):
    monkeypatch.setitem(sys.modules, "wandb", module)
    message = r"^logger=wandb needs the package wandb \(.+\): run `pip install wandb` or choose logger=csv\.$"
    with pytest.raises(UserError, match=message):
        run(composed(*TINY, "logger=wandb"), tmp_path / "seed=0")
    assert not (tmp_path / "seed=0" / "config.yaml").exists()


def test_wandb_works_offline(tmp_path, composed):
    directory = tmp_path / "a" / "b" / "seed=0"
    run(composed(*TINY, "epochs=2", "logger=wandb"), directory)
    (log,) = directory.glob("wandb/offline-run-*/run-*.wandb")
    end = time.monotonic() + 10
    while b"single/test_accuracy" not in log.read_bytes() and time.monotonic() < end:
        time.sleep(0.01)  # wandb's own process writes it, shortly after finish() returned
    content = log.read_bytes()
    assert b"single/test_accuracy" in content and b"train_loss_nats" in content


def test_the_images_of_a_run_can_not_be_other_ones(tmp_path, composed):
    names = [f"{number}.png" for number in range(16)]
    for split in ("train", "test"):
        for name in ("a", "b"):
            images(tmp_path / "mine" / split / name, *names)
    sizes = ("epochs=2", "batch_size=8", "late_phase.T0=1", "late_phase.K=2", "runtime.progress=false")
    config = composed(*sizes, "dataset=image_folder", f"dataset.root={tmp_path / 'mine'}", f"dataset.cache={tmp_path / 'cache'}")
    run_until(6, config, directory := tmp_path / "a" / "b" / "seed=0")
    kept = (tmp_path / "mine" / "train" / "a" / "0.png").read_bytes()
    images(tmp_path / "mine" / "train" / "a", "0.png")
    with pytest.raises(
        UserError, match=r"the set of images has changed since the checkpoint was written \(sha256 \w+, now \w+\): restore"
    ):
        run(config, directory)
    (tmp_path / "mine" / "train" / "a" / "0.png").write_bytes(kept)
    run(config, directory)
    models_of_runs(directory, None, None, torch.device("cpu"))
    images(tmp_path / "mine" / "test" / "b", "7.png")
    with pytest.raises(UserError, match=r"trained on other data than image_folder or another run has \(images with sha256"):
        models_of_runs(directory, None, None, torch.device("cpu"))


def test_a_run_begun_by_older_code_with_fewer_columns_goes_on(tmp_path, composed):
    config, directory = composed(*TINY), tmp_path / "a" / "b" / "seed=0"
    run_until(20, config, directory)
    saved = torch.load(directory / "checkpoint.pt", weights_only=True)
    for row in saved["history"]:
        del row["weight_norm"]
    torch.save(saved, directory / "checkpoint.pt")
    run(config, directory)
    assert [bool(row["weight_norm"]) for row in history(directory)] == [False, False, True, True]
