"""Language models by the whole way, from config to metrics; for text what test_methods.py and test_run.py are for images."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import ROOT, Main
from runs import assert_same_results, files_in, history, run_until
from safetensors import safe_open
from safetensors.torch import load_file

from late_phase import data
from late_phase.architectures import build
from late_phase.architectures.gpt import GPT
from late_phase.config.training import TrainConfig
from late_phase.layers.rank1 import parametrize_rank1
from late_phase.runs.models import models_of_runs
from late_phase.support.errors import UserError
from late_phase.training.loop import run
from late_phase.weights import load

# 6 minibatches an epoch, the last one shorter, and 4 members: epochs end inside of an iteration.
TINY = (
    "dataset=pydocs",
    "batch_size=5",
    "dataset.sequence_length=20",
    "dataset.subset=550",
    "dataset.test_subset=150",
    "epochs=4",
    "averaging.start=2",
    "optimizer.lr=0.06",
    "runtime.progress=false",
)
SMALL = {
    "lstm": ("architecture.units=12",),
    "gpt": ("architecture.depth=1", "architecture.heads=2", "architecture.width=12", "dataset.minibatches=6", "optimizer.lr=0.05"),
}
"""Architecture -> what makes it small."""

LATE = ("late_phase.K=4", "late_phase.T0=1")


class Method(NamedTuple):
    overrides: tuple[str, ...]
    predictors: dict[str, int]


SWA = {"swa": 1}
BOTH = {"single": 1, "ensemble": 4, "swa": 1, "swa_ensemble": 4}
METHODS = {
    "base": Method(("+experiment=enwik8_lstm_base",), {"single": 1, "swa": 1}),
    "rank1": Method(("+experiment=enwik8_lstm_rank1",), {"single": 1, "swa": 1}),
    "lprank1": Method(("+experiment=enwik8_lstm_lprank1", *LATE), BOTH),
    "lpfull": Method(("+experiment=enwik8_lstm_base", "late_phase=full", *LATE), BOTH),
    "lphead": Method(("+experiment=enwik8_lstm_base", "late_phase=head", *LATE, "max_grad_norm=0.1"), BOTH),
    "lprank1_ema": Method(
        ("+experiment=enwik8_lstm_lprank1", "averaging=ema", *LATE), {n.replace("swa", "ema"): k for n, k in BOTH.items()}
    ),
    "lprank1_schedulefree": Method(
        ("+experiment=enwik8_lstm_lprank1", "averaging=none", "optimizer=schedule_free_adamw", "schedule=constant", *LATE),
        {"single": 1, "ensemble": 4},
    ),
    "swag": Method(
        ("+experiment=enwik8_lstm_base", "averaging=swag", "averaging.rank=2", "averaging.samples=3"),
        {"single": 1, "swa": 1, "swag": 3},
    ),
    "gpt_base": Method(("+experiment=pydocs_gpt_base",), {"single": 1}),
    "gpt_lpln": Method(("+experiment=pydocs_gpt_lpln", *LATE), {"single": 1, "ensemble": 4}),
    "gpt_lprank1": Method(("+experiment=pydocs_gpt_lprank1", *LATE, "late_phase.spread=0.01"), {"single": 1, "ensemble": 4}),
    "gpt_lplora": Method(("+experiment=pydocs_gpt_lplora", *LATE, "late_phase.rank=3"), {"single": 1, "ensemble": 4}),
    "gpt_lphead": Method(("+experiment=pydocs_gpt_base", "late_phase=head", *LATE), {"single": 1, "ensemble": 4}),
    "gpt_lplora_swa": Method(("+experiment=pydocs_gpt_lplora", "averaging=swa", *LATE, "late_phase.rank=3"), BOTH),
}
every_method = pytest.mark.parametrize("method", METHODS)
METRICS = {f"{part}_bpc" for part in ("train", "validation", "test")}


def architecture_of(experiment: str) -> str:
    return experiment.split("_")[1]


def tiny(method: str) -> tuple[str, ...]:
    """Choices of groups come before their keys, so that these aren't overruled."""
    experiment, *own = METHODS[method].overrides
    keys = [override for override in own if "." in override.partition("=")[0]]
    return (experiment, *(o for o in own if o not in keys), *TINY, *SMALL[architecture_of(experiment)], *keys)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, composed: Callable[..., TrainConfig]) -> Callable[[str], Path]:
    """The directory of a finished run of a method, which is made once."""
    root = tmp_path_factory.mktemp("finished")

    def directory(method: str) -> Path:
        path = root / f"tiny_{method}" / "default" / "seed=0"
        if not (path / "metrics.json").exists():
            run(composed(*tiny(method)), path)
        return path

    return directory


def assert_same_directories(one: Path, other: Path) -> None:
    assert files_in(one) == files_in(other)
    assert_same_results(one, other)


@every_method
def test_it_trains(method, finished, composed):
    fresh = load_file(finished(method) / "model.safetensors")
    text = data.load("pydocs")
    record = json.loads((finished(method) / "metrics.json").read_text())
    assert list(record["metrics"]) == list(METHODS[method].predictors)
    for name, members in METHODS[method].predictors.items():
        own = {f"{part}_member_bpc" for part in ("train", "validation", "test")} if members > 1 else set()
        assert record["metrics"][name].keys() == METRICS | own
    assert record["text_sha256"] == text.sha256
    rows = history(finished(method))
    assert len(rows) == 4 and float(rows[-1]["test_bpc"]) == record["metrics"]["single"]["test_bpc"]
    assert float(rows[-1]["train_loss_nats"]) < float(rows[0]["train_loss_nats"]) - 0.2
    assert record["metrics"]["single"]["train_bpc"] < math.log2(len(fresh["head.weight"])) - 1
    sample = (finished(method) / "sample.txt").read_text()
    assert len(sample) > 390


@every_method
def test_it_resumes_to_the_same_bytes(method, finished, tmp_path, composed):
    directory = tmp_path / method / "default" / "seed=0"
    for steps in (4, 2, 9):  # to within the first epoch, to its end, and beyond T0 to within an epoch and an iteration
        run_until(steps, composed(*tiny(method)), directory)
    run(composed(*tiny(method)), directory)
    assert_same_directories(directory, finished(method))


def test_the_checkpoint_holds_the_hidden_state(tmp_path, composed):
    directory = tmp_path / "lprank1" / "default" / "seed=0"
    run_until(15, composed(*tiny("lprank1")), directory)
    saved = torch.load(directory / "checkpoint.pt", weights_only=True)
    assert saved["tally"]["batches"] == 3
    assert [part.shape for part in saved["batches"]["state"]] == [(1, 5, 12)] * 2
    assert all(part.any() for part in saved["batches"]["state"])


def test_a_killed_run_started_again_ends_with_the_same_bytes(finished, tmp_path, composed):
    places, directory = ("step:15", "saving:3"), tmp_path / "{place}" / "default" / "seed=0"
    killed = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "killed.py"), str(directory), ",".join(places), *tiny("lprank1")],
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    for place in places:
        directory = tmp_path / place.replace(":", "-") / "default" / "seed=0"
        assert not (directory / "metrics.json").exists()
        run(composed(*tiny("lprank1")), directory)
        assert_same_directories(directory, finished("lprank1"))


@pytest.mark.parametrize("method", [name for name in METHODS if name.startswith("gpt_")])
def test_it_exports_a_plain_gpt(method, finished):
    """By a loop over windows of 20 bytes: nothing is added at inference."""
    text = data.load("pydocs").take(550, 150)
    for name in METHODS[method].predictors.keys() & {"single", "swa"}:
        file = finished(method) / ("" if name == "single" else name) / "model.safetensors"
        with safe_open(file, "pt") as opened:
            known = json.loads(opened.metadata()["late_phase"])["bytes"]
        plain = GPT(len(known), depth=1, heads=2, width=12, context=20)
        plain.load_state_dict(load_file(file), strict=True)
        symbols = torch.tensor([known.index(byte) for byte in text.test])
        nats = 0.0
        with torch.no_grad():
            for start in range(0, 149, 20):
                inputs, targets = symbols[start : min(start + 20, 149)], symbols[start + 1 : start + 21]
                nats += torch.nn.functional.cross_entropy(plain(inputs[:, None])[0][:, 0], targets, reduction="sum").item()
        record = json.loads((finished(method) / "metrics.json").read_text())
        assert record["metrics"][name]["test_bpc"] == pytest.approx(nats / 149 / math.log(2), rel=1e-5)


@pytest.mark.parametrize("method", [name for name in METHODS if not name.startswith("gpt_")])
def test_it_exports_a_plain_model(method, finished):
    """By torch's own layers alone: nothing is added at inference."""
    text = data.load("pydocs").take(550, 150)
    averages = [name for name in METHODS[method].predictors if name in ("swa", "ema")]
    for folder, name in ((finished(method), "single"), *((finished(method) / name, name) for name in averages)):
        with safe_open(folder / "model.safetensors", "pt") as file:
            known = json.loads(file.metadata()["late_phase"])["bytes"]
        assert known == sorted({*bytes(text.train), *bytes(text.validation), *bytes(text.test)})
        state = load_file(folder / "model.safetensors")
        embedding, lstm = torch.nn.Embedding(len(known), len(known)), torch.nn.LSTM(len(known), 12)
        head = torch.nn.Linear(12, len(known))
        for prefix, layer in (("embedding", embedding), ("lstm", lstm), ("head", head)):
            layer.load_state_dict({key.removeprefix(f"{prefix}."): v for key, v in state.items() if key.startswith(f"{prefix}.")})
        symbols = torch.tensor([known.index(byte) for byte in text.test])
        with torch.no_grad():
            log_probs = head(lstm(embedding(symbols[:-1]))[0]).log_softmax(-1)
        bpc = -log_probs[range(149), symbols[1:]].mean().item() / math.log(2)
        record = json.loads((finished(method) / "metrics.json").read_text())
        assert record["metrics"][name]["test_bpc"] == pytest.approx(bpc, rel=1e-5)


@pytest.mark.parametrize(("folder", "name"), [("", "ensemble"), ("swa", "swa_ensemble")])
def test_the_ensemble_is_the_mean_of_the_members_predictions(folder, name, finished):
    text = data.load("pydocs").take(550, 150)
    directory = finished("lprank1") / folder
    members, base = load_file(directory / "members.safetensors"), load_file(directory / "base.safetensors")
    known = sorted({*bytes(text.train), *bytes(text.validation), *bytes(text.test)})
    symbols = torch.tensor([known.index(byte) for byte in text.test])
    model = build("lstm", len(known), units=12)
    parametrize_rank1(model, matrices="lstm.weight_hh_l0")
    load(model, base)
    assert {values.shape for values in members.values()} == {(4, 48), (4, 12)}
    probs = []
    with torch.no_grad():
        for k in range(4):
            load(model, {key: values[k] for key, values in members.items()})
            probs.append(model(symbols[:-1, None])[0][:, 0].softmax(-1)[range(149), symbols[1:]].double())
    metrics = json.loads((finished("lprank1") / "metrics.json").read_text())["metrics"][name]
    assert metrics["test_bpc"] == pytest.approx(-torch.stack(probs).mean(0).log2().mean().item(), rel=1e-5)
    assert metrics["test_member_bpc"] == pytest.approx(-torch.stack(probs).log2().mean().item(), rel=1e-5)
    assert metrics["test_member_bpc"] > metrics["test_bpc"]


def test_clipped_gradients_have_the_norm(tmp_path, composed, monkeypatch):
    norms = []
    original = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", lambda parameters, most: norms.append((most, original(parameters, most))))
    run(composed(*tiny("base"), "epochs=3", "max_grad_norm=0.05"), tmp_path / "a" / "b" / "seed=0")
    assert len(norms) == 18 and {most for most, _ in norms} == {0.05}


def test_a_run_can_be_evaluated_on_another_text_and_as_a_deep_ensemble(finished, tmp_path, composed, main: Main):
    one = finished("lprank1")
    two = one.parent / "seed=1"
    if not (two / "metrics.json").exists():
        run(composed(*tiny("lprank1"), "seed=1"), two)
    status, output = main(f"run='{one}'", "suite=all", script="scripts/evaluate.py")
    assert status == 0, status
    assert "test bpc" in output and "suite=flatness is skipped: suite=flatness is only for images: choose suite=accuracy" in output
    record, own = (json.loads((one / name).read_text()) for name in ("evaluation/accuracy.json", "metrics.json"))
    assert record["metrics"] == own["metrics"] and record["bytes"] == 150

    status, output = main(f"run='{one.parent}'", script="scripts/evaluate.py")
    assert status == 0, status
    both = json.loads((one.parent / "seeds=0,1" / "evaluation" / "accuracy.json").read_text())
    assert both["metrics"]["single"]["test_bpc"] < both["metrics"]["single"]["test_member_bpc"]

    text = data.load("pydocs").take(550, 150)
    other = tmp_path / "other.txt"
    other.write_bytes(bytes(text.test) * 20)
    command = [f"run='{one}'", "dataset=text_file", f"dataset.path='{other}'"]
    status, output = main(*command, script="scripts/evaluate.py")
    assert status == 0, status
    record = json.loads((one / "evaluation" / "other" / "accuracy.json").read_text())
    assert record["metrics"]["single"].keys() == {"test_bpc", "validation_bpc"} and record["bytes"] == 150

    other.write_bytes(bytes(text.test) * 20 + b"\x07")
    status, _ = main(*command, script="scripts/evaluate.py")
    assert str(status).startswith("error: suite=accuracy can't be computed: the text has the byte 0x07, which is not among ")
    status, _ = main(f"run='{one}'", "dataset=digits", script="scripts/evaluate.py")
    assert str(status).startswith("error: dataset=digits is not of the kind that "), status
    status, output = main(
        *("architecture=lstm", "architecture.units=12", f"architecture.weights='{one}'", f"to='{tmp_path / 'to'}'"),
        *("dataset=pydocs", "dataset.subset=550", "dataset.test_subset=150"),
        script="scripts/evaluate.py",
    )
    assert status == 0, status
    given = json.loads((tmp_path / "to" / "accuracy.json").read_text())
    assert given["metrics"]["single"] == own["metrics"]["single"]


def test_the_report_on_texts_has_bits_per_character(finished, tmp_path, main: Main):
    folders = [finished(name).parent for name in ("lprank1", "base", "rank1")]
    status, output = main(*map(str, folders), "--to", str(tmp_path / "to"), script="scripts/report.py")
    assert status == 0, status
    assert "test BPC" in output and "accuracy" not in output
    assert {path.name for path in (tmp_path / "to").iterdir()} == {"table.md", "bpc.png"}


FILES = [path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml")]
EXPERIMENTS = sorted(name for name in FILES if architecture_of(name) in SMALL)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_runs(experiment, tmp_path, composed):
    architecture = architecture_of(experiment)
    small = [override for override in SMALL[architecture] if not override.startswith("optimizer")]
    config = composed(f"+experiment={experiment}", "+debug=smoke_text", "dataset=pydocs", *small)
    optimizer = {"lstm": "adam", "gpt": "adamw"}[architecture]
    assert (config.epochs, config.late_phase.T0, config.optimizer.name, config.optimizer.lr) == (2, 1, optimizer, 0.001)
    record = run(config, tmp_path / experiment / "default" / "seed=0")
    late = [] if experiment.endswith("base") else ["ensemble"]
    swa = [] if config.averaging.name == "none" else ["swa", *(f"swa_{name}" for name in late)]
    assert list(record["metrics"]) == ["single", *late, *swa]


def test_the_experiments_are_the_papers(composed):
    base, rank1, lprank1 = (composed(f"+experiment=enwik8_lstm_{name}") for name in ("base", "rank1", "lprank1"))
    for config in (base, rank1, lprank1):
        assert (config.epochs, config.batch_size, config.averaging.start, config.architecture.units) == (50, 128, 40, 500)
        assert (config.optimizer.lr, config.optimizer.weight_decay, config.optimizer.eps) == (0.001, 0, 1e-8)
        assert (config.dataset.name, config.schedule.name, config.max_grad_norm) == ("enwik8", "constant", None)
    late = lprank1.late_phase
    assert (late.K, late.T0, late.sigma0, late.gamma_theta, late.head, late.spread) == (10, 30, 0.35, 1, False, 0.01)
    assert (rank1.late_phase.T0, rank1.late_phase.K, rank1.late_phase.spread) == (50, 1, 0.01)
    assert late.matrices == rank1.late_phase.matrices == "lstm.weight_hh_l0" and base.late_phase.name == "none"


def test_text_in_any_encoding_is_its_bytes(tmp_path, composed):
    """UTF-16 among them: a character is two predictions."""
    path = tmp_path / "utf16.txt"
    path.write_bytes(("Grüße aus Zürich. " * 60).encode("utf-16"))
    own = ("dataset=text_file", f"dataset.path='{path}'", "dataset.test_subset=40", *TINY[1:4], *SMALL["lstm"], "late_phase.K=4")
    record = run(composed("+experiment=enwik8_lstm_lprank1", "+debug=smoke_text", *own), tmp_path / "a" / "b" / "seed=0")
    assert 0 < record["metrics"]["single"]["test_bpc"] < 5


def test_the_text_of_a_run_can_not_be_another_one(tmp_path, composed):
    path, directory = tmp_path / "mine.txt", tmp_path / "a" / "b" / "seed=0"
    path.write_bytes(b"to be or not to be " * 100)
    config = composed("+experiment=enwik8_lstm_base", "dataset=text_file", f"dataset.path='{path}'", *TINY[1:4], *SMALL["lstm"])
    run_until(4, config, directory)
    original = path.read_bytes()
    for changed in (original[:-19] + b"be to or be not to ", original + b"?"):  # in its test part alone; by a new byte
        path.write_bytes(changed)
        with pytest.raises(UserError, match="the text has changed since the checkpoint was written"):
            run(config, directory)
    path.write_bytes(original)
    run(config, directory)
    path.write_bytes(original.upper())
    with pytest.raises(
        UserError, match=r"trained on other data than text_file or another run has \(text with sha256 \w+, here \w+\)"
    ):
        models_of_runs(directory, None, None, torch.device("cpu"))
    start = f"architecture.weights='{directory}'"
    config = composed(
        "+experiment=enwik8_lstm_base", "dataset=text_file", f"dataset.path='{path}'", *TINY[1:4], *SMALL["lstm"], start
    )
    with pytest.raises(
        UserError, match=r"^architecture\.weights=.* was trained on a text with other bytes than mine has: choose weights"
    ):
        run(config, tmp_path / "a" / "b" / "seed=1")


def test_a_history_that_a_kill_left_behind_is_brought_up_to_date(finished, tmp_path, composed):
    directory = tmp_path / "base" / "default" / "seed=0"
    directory.mkdir(parents=True)
    for name in ("config.yaml", "checkpoint.pt"):
        (directory / name).write_bytes((finished("base") / name).read_bytes())
    run(composed(*tiny("base")), directory)
    assert history(directory) == history(finished("base"))


def test_curves_of_seeds_that_were_measured_in_different_epochs(finished, tmp_path, composed, main: Main):
    folder = tmp_path / "tiny_base" / "default"
    for seed, every in enumerate((1, 2, 0)):
        run(composed(*tiny("base"), f"seed={seed}", f"runtime.evaluate_every={every}"), folder / f"seed={seed}")
    status, _ = main(str(folder), "--to", str(tmp_path / "to"), script="scripts/report.py")
    assert status == 0 and (tmp_path / "to" / "bpc.png").exists()
