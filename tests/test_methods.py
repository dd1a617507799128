"""Every method of the paper by one table: trains, resumes, exports, predicts, and its experiment files compose and run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import ROOT
from PIL import Image
from runs import TINY, assert_same_results, files_in, history, run_until
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from late_phase.architectures import build
from late_phase.config.training import TrainConfig
from late_phase.layers.batch_ensemble import BatchEnsemble
from late_phase.runs.config_file import from_yaml
from late_phase.runs.models import models_of_runs
from late_phase.support.errors import UserError
from late_phase.training.loop import run


class Method(NamedTuple):
    """What chooses a method, and what its runs leave: number of members by the name of the predictor."""

    overrides: tuple[str, ...]
    predictors: dict[str, int]
    architecture: str = "lenet"
    sizes: tuple[tuple[str, int], ...] = ()  # of the architecture

    def plain(self) -> nn.Module:
        return build(self.architecture, 1, 10, **dict(self.sizes))


LATE = {"single": 1, "ensemble": 3}
NONE = ("late_phase=none", "late_phase.K=1", "late_phase.T0=null")
SWA = ("averaging=swa", "averaging.start=2")
EMA = ("averaging=ema", "averaging.start=1", "averaging.decay=0.9")
LAWA = ("averaging=lawa", "averaging.start=1", "averaging.models=2")
SCHEDULE_FREE = ("optimizer=schedule_free", "schedule=constant")
LOOKAHEAD = ("averaging=lookahead", "averaging.start=0", "averaging.steps=2")
AVERAGES = ("swa", "ema", "lawa", "lookahead")
METHODS = {
    "base": Method(NONE, {"single": 1}),
    "lpbn": Method(("late_phase.sigma0=0.1",), LATE),
    "lpbn_without_head": Method(("late_phase.head=false", "late_phase.sigma0=0.1"), LATE),
    "lpln": Method(("late_phase=layernorm",), LATE, "vit", (("patch", 8), ("depth", 1), ("heads", 2), ("width", 16))),
    "lprank1": Method(("late_phase=rank1", "late_phase.spread=0.01"), LATE),
    "lplora": Method(("late_phase=lora", "late_phase.rank=2", "late_phase.alpha=4"), LATE),
    "lphnet": Method(("late_phase=hypernetwork",), LATE),
    "lphead": Method(("late_phase=head",), LATE),
    "lpfull": Method(("late_phase=full",), LATE),
    "lpselect": Method(("late_phase=select", "late_phase.select=[bn*,type:Linear]", "late_phase.sigma0=0.1"), LATE),
    "lpbn_frozen": Method(("late_phase.gamma_theta=0",), LATE),
    "accumulation": Method(("late_phase=accumulation", "late_phase.gamma_theta=0.5"), {"single": 1}),
    "base_swa": Method((*NONE, *SWA), {"single": 1, "swa": 1}),
    "lpbn_swa": Method(SWA, LATE | {"swa": 1, "swa_ensemble": 3}),
    "lphnet_swa": Method(("late_phase=hypernetwork", *SWA), LATE | {"swa": 1, "swa_ensemble": 3}),
    "base_ema": Method((*NONE, *EMA), {"single": 1, "ema": 1}),
    "lpbn_ema": Method(EMA, LATE | {"ema": 1, "ema_ensemble": 3}),
    "base_lawa": Method((*NONE, *LAWA), {"single": 1, "lawa": 1}),
    "lpbn_lawa": Method(LAWA, LATE | {"lawa": 1, "lawa_ensemble": 3}),
    "base_lookahead": Method((*NONE, *LOOKAHEAD), {"single": 1, "lookahead": 1}),
    "lpbn_lookahead": Method((*LOOKAHEAD, "late_phase.sigma0=0.1"), LATE | {"lookahead": 1, "lookahead_ensemble": 3}),
    "lpbn_pull": Method(("late_phase.pull=0.5", "late_phase.sigma0=0.1"), LATE),
    "lpbn_outer": Method(("late_phase.outer=0.5", "late_phase.sigma0=0.1"), LATE),
    "base_adamw": Method((*NONE, "optimizer=adamw"), {"single": 1}),
    "base_schedulefree": Method((*NONE, *SCHEDULE_FREE), {"single": 1}),
    "lpbn_schedulefree": Method((*SCHEDULE_FREE, "late_phase.sigma0=0.1"), LATE),
    "swag": Method(
        (*NONE, "averaging=swag", "averaging.start=1", "averaging.rank=2", "averaging.samples=4"),
        {"single": 1, "swa": 1, "swag": 4},
    ),
    "dropout": Method((*NONE, "architecture.dropout=0.3", "architecture.mc_samples=5"), {"single": 1, "mc_dropout": 5}),
    "batchensemble": Method((*NONE, "ensemble=batch_ensemble", "ensemble.K=3"), {"ensemble": 3}),
}
every_method = pytest.mark.parametrize("method", METHODS)


def tiny(method: str) -> tuple[str, ...]:
    """Choices of groups come before their keys, so that these aren't overruled."""
    chosen = METHODS[method]
    sizes = (f"architecture.{key}={value}" for key, value in chosen.sizes)
    own = (f"architecture={chosen.architecture}", *chosen.overrides, *sizes)
    return (*(o for o in own if "." not in o.partition("=")[0]), *TINY, *(o for o in own if "." in o.partition("=")[0]))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, composed: Callable[..., TrainConfig]) -> Callable[[str], Path]:
    """The directory of a finished run of a method, which is made once."""
    root = tmp_path_factory.mktemp("finished")

    def directory(method: str) -> Path:
        path = root / method / "default" / "seed=0"
        if not (path / "metrics.json").exists():
            run(composed(*tiny(method)), path)
        return path

    return directory


def state_after(epochs: int, method: str, path: Path, composed: Callable[..., TrainConfig]) -> dict:
    """The checkpoint of a run that is stopped after so many epochs of 8 minibatches."""
    run_until(8 * epochs, composed(*tiny(method)), path)
    return torch.load(path / "checkpoint.pt", weights_only=True)


@every_method
def test_it_trains(method, finished, tmp_path, composed):
    """Base weights move before and after T0, unless they are frozen; late-phase weights move, and apart from each other."""
    one = state_after(1, method, tmp_path / "x" / "default" / "seed=0", composed)
    last = torch.load(finished(method) / "checkpoint.pt", weights_only=True)
    phi = set(last["late"]["phi"])
    floating = [name for name, value in last["model"].items() if value.is_floating_point()]
    moved = {name for name in floating if not torch.equal(one["model"][name], last["model"][name])}
    expected = set(floating)
    if method == "lpbn_frozen":
        expected = {name for name in floating if name in phi or "running" in name}
        assert expected != set(floating)
    assert moved == expected
    for name in phi:
        values = last["late"]["members"][name]
        assert not torch.equal(values[0], values[1]) and not torch.equal(values[1], values[2])
    losses = [float(row["train_loss_nats"]) for row in history(finished(method))]
    assert losses[1] < losses[0]


@every_method
def test_it_resumes_to_the_same_bytes(method, finished, tmp_path, composed):
    directory = tmp_path / method / "default" / "seed=0"
    for steps in (7, 22):  # to within the first epoch; then beyond T0 and the first average, to within an epoch and an iteration
        run_until(steps, composed(*tiny(method)), directory)
    run(composed(*tiny(method)), directory)
    assert_same_results(directory, finished(method))


@every_method
def test_it_exports_a_plain_model_or_named_weights(method, finished):
    """The single model is the architecture as it is without the method: nothing is added at inference."""
    plain = METHODS[method].plain()
    for folder in (finished(method), *(finished(method) / name for name in AVERAGES)):
        if folder.exists():
            state = load_file(folder / "model.safetensors")
            if method == "batchensemble":
                BatchEnsemble(build("lenet", 1, 10), 3).load_state_dict(state, strict=True)
            else:
                assert {name: value.shape for name, value in state.items()} == {n: v.shape for n, v in plain.state_dict().items()}
                plain.load_state_dict(state, strict=True)
            with safe_open(folder / "model.safetensors", "pt") as file:
                assert json.loads(file.metadata()["late_phase"]).keys() == {"mean", "std"}
    assert all((finished(method) / name).exists() == (name in METHODS[method].predictors) for name in AVERAGES)
    members = finished(method) / "members.safetensors"
    assert members.exists() == (METHODS[method].predictors.keys() >= {"single", "ensemble"})
    if members.exists():
        assert all(len(value) == 3 for value in load_file(members).values())


@every_method
def test_it_predicts(method, finished):
    tensors = load_file(finished(method) / "predictions" / "test.safetensors")
    labels = tensors.pop("labels")
    assert tensors.keys() == METHODS[method].predictors.keys()
    for name, members in METHODS[method].predictors.items():
        assert tensors[name].shape == (members, 40, 10)
        torch.testing.assert_close(tensors[name].exp().sum(-1), torch.ones(members, 40))
        assert members == 1 or not torch.equal(tensors[name][0], tensors[name][1])
    metrics = json.loads((finished(method) / "metrics.json").read_text())["metrics"]
    assert list(metrics) == list(METHODS[method].predictors)
    for name, row in metrics.items():
        mean = tensors[name].exp().mean(0)
        assert row["test_accuracy"] == pytest.approx((mean.argmax(1) == labels).float().mean().item())
        assert row["test_nll"] == pytest.approx(-mean[range(40), labels].log().mean().item(), rel=1e-4)


OTHERS = {"lstm", "gpt", "mlp"}  # not on images
EXPERIMENTS = sorted(path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml") if not OTHERS & {*path.stem.split("_")})
LARGE = ("imagenet_resnet152", "imagenet_densenet161", "imagenet_resnet50_base")
SMALL = {
    "wrn": ("architecture.width=1", "architecture.depth=10"),
    "pyramidnet": ("architecture.depth=8", "architecture.alpha=3"),
    "vit": ("architecture.depth=1", "architecture.width=8"),
}


def method_of(experiment: str) -> str:
    _, _, name = experiment.split("_", 2)
    name = name.removeprefix("pretrained_").removesuffix("_nonaveraged")
    return name + "_swa" if "_wrn14_" in experiment else name


@pytest.mark.parametrize(
    "experiment",
    [pytest.param(name, marks=pytest.mark.slow) if name.startswith(LARGE) else name for name in EXPERIMENTS],
)
def test_every_experiment_composes_and_runs(tmp_path, composed, experiment):
    """At toy scale: the recipe is the experiment's, images and width are small."""
    overrides = [f"+experiment={experiment}", "+debug=smoke", "runtime.progress=false", "seed=3"]
    config = composed(*overrides)
    assert config.epochs == 2 and config.late_phase.T0 == 1
    small = ["dataset=digits", *SMALL.get(config.architecture.name, ())]
    if config.dataset.name == "imagenet":
        assert config.architecture.weights == "IMAGENET1K_V1"
        photos(tmp_path / "photos", ("train", "test"), 14, 32)
        small = ["dataset=image_folder", f"dataset.root='{tmp_path / 'photos'}'", "architecture.weights=null"]
        # The networks are large, and so deep that statistics of two images bring them to infinity.
        small += ["dataset.subset=16", "batch_size=8", f"late_phase.K={min(config.late_phase.K, 2)}"]
    elif config.architecture.weights is not None:
        assert config.architecture.weights == "outputs/cifar100_wrn_base/default/seed=3"
        base = tmp_path / "base" / "default" / "seed=3"
        run(composed("+experiment=cifar100_wrn_base", *overrides[1:], *small), base)
        small.append(f"architecture.weights='{base}'")
    if config.averaging.name == "swag":
        small += ["averaging.samples=2"]
    record = run(composed(*overrides, *small, "dataset.test_subset=4"), tmp_path / "a" / "b" / "seed=3")
    assert list(record["metrics"]) == list(METHODS[method_of(experiment)].predictors)


def test_training_streams_imagenet_from_disk_and_resumes(tmp_path, composed):
    """In its own folders and sizes; the network is small."""
    photos(tmp_path / "imagenet", ("train", "val"), 12, 300)
    overrides = ["+experiment=imagenet_resnet50_lpbn", "+debug=smoke", "architecture=wrn", *SMALL["wrn"], "late_phase.K=3"]
    overrides += [f"dataset.root='{tmp_path / 'imagenet'}'", "dataset.subset=10", "dataset.workers=0", "dataset.test_subset=6"]
    whole, stopped = (tmp_path / name / "default" / "seed=0" for name in ("whole", "stopped"))
    record = run(composed(*overrides), whole)
    assert record["metrics"]["ensemble"].keys() == {"test_accuracy", "test_nll", "test_ece"}
    assert composed(*overrides).late_phase.gamma_theta == pytest.approx(1 / 3)
    run_until(7, composed(*overrides), stopped)  # of 2 epochs of 5 minibatches
    run(composed(*overrides, "dataset.workers=1"), stopped)
    for name in ("model.safetensors", "members.safetensors", "predictions/test.safetensors"):
        assert (whole / name).read_bytes() == (stopped / name).read_bytes(), name


def photos(root: Path, splits: tuple[str, ...], count: int, size: int) -> None:
    """``count`` noisy photographs of each of two classes in each split."""
    for split in splits:
        for i, name in enumerate(("n01440764", "n01443537")):
            (root / split / name).mkdir(parents=True)
            for j in range(count):
                noise = Image.effect_noise((size, size), 40 + 60 * i)
                Image.merge("RGB", (noise,) * 3).save(root / split / name / f"{j}.jpg")


def test_every_method_has_an_experiment_on_the_embedded_digits(composed):
    for method in set(METHODS) - {"lpbn_without_head", "lphnet_swa", "lpselect"}:
        config, tested = composed(f"+experiment=digits_{METHODS[method].architecture}_{method}"), composed(*tiny(method))
        groups = ["late_phase", "averaging", "ensemble"] + ["optimizer"] * (METHODS[method].architecture == "lenet")
        for group in groups:
            assert getattr(config, group).name == getattr(tested, group).name, group
        assert (config.late_phase.gamma_theta == 0) == (method == "lpbn_frozen")
        assert (config.late_phase.pull > 0) == (method == "lpbn_pull") and (config.late_phase.outer > 0) == (method == "lpbn_outer")
        assert (getattr(config.architecture, "dropout", 0) > 0) == (method == "dropout")


@pytest.mark.parametrize("method", ["lprank1", "lphnet_swa", "lpbn_swa"])
def test_in_bfloat16_the_exported_model_has_the_precision_of_its_weights(method, tmp_path, composed):
    directory = tmp_path / method / "default" / "seed=0"
    run(composed(*tiny(method), "compute.precision=bf16"), directory)
    for path in directory.glob("**/model.safetensors"):
        plain = build("lenet", 1, 10).state_dict()
        assert {name: value.dtype for name, value in load_file(path).items()} == {n: v.dtype for n, v in plain.items()}
    for name, members in load_file(directory / "predictions" / "test.safetensors").items():
        assert "ensemble" not in name or not torch.equal(members[0], members[1])


@pytest.mark.parametrize("method", ["lprank1", "lpbn"])
def test_statistics_of_the_single_model_are_its_own(method, finished, tmp_path, composed):
    """How they are had changes nothing about the members, also where these share running statistics."""
    directory = tmp_path / method / "default" / "seed=0"
    run(composed(*tiny(method), "late_phase.running_statistics=recompute"), directory)
    mean, recomputed = (load_file(path / "predictions" / "test.safetensors") for path in (finished(method), directory))
    assert torch.equal(mean["ensemble"], recomputed["ensemble"]) and not torch.equal(mean["single"], recomputed["single"])


def test_what_another_run_left_is_not_taken_for_its_own(finished, tmp_path, composed):
    directory = tmp_path / "base" / "default" / "seed=0"
    (directory / "swa").mkdir(parents=True)
    for name in ("members.safetensors", "base.safetensors", "swa/model.safetensors"):
        (directory / name).write_bytes((finished("lphnet_swa") / name).read_bytes())
    run(composed(*tiny("base")), directory)
    assert {name for name in files_in(directory) if name.endswith(".safetensors")} == {
        "model.safetensors",
        "predictions/test.safetensors",
        "predictions/train.safetensors",
        "predictions/validation.safetensors",
    }


def test_what_is_not_a_runs_own_stays_in_its_directory(tmp_path, composed):
    """As with ``hydra.run.dir=.``: the folder may hold weights of the user's, other runs and whole models."""
    others = [tmp_path / name for name in ("init.safetensors", "seed=0/model.safetensors", "seed=0/members.safetensors")]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    run(composed(*tiny("base")), tmp_path)
    assert [path.read_bytes() for path in others] == [b"mine"] * 3


def test_members_of_another_parametrization_are_damage(finished, tmp_path):
    directory = Path(shutil.copytree(finished("lprank1"), tmp_path / "run"))
    (directory / "base.safetensors").unlink()
    with pytest.raises(UserError, match=r"run is damaged \(.*weight\.0\.u.*\): train it again"):
        models_of_runs(directory, None, None, torch.device("cpu"))


def test_a_run_of_the_first_version_is_read(finished, tmp_path):
    text = (finished("base") / "config.yaml").read_text()
    old = text.replace("ensemble:\n  name: none\n", "").replace("averaging:\n  name: none\n  start: null\n", "")
    assert len(old) < len(text) - 40
    (tmp_path / "config.yaml").write_text(old)
    assert from_yaml(tmp_path / "config.yaml") == from_yaml(finished("base") / "config.yaml")
