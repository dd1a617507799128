"""A pace changes all times of a config in proportion, and nothing else; a scale is a pace with other data."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from conftest import ROOT

from late_phase.config.identity import config_hash
from late_phase.support.errors import UserError


def times(config):
    return config.epochs, config.late_phase.T0, config.averaging.start, config.schedule.epochs


def test_all_times_keep_their_proportions(composed):
    whole, part = composed("+experiment=cifar100_wrn_lpbn_swa"), composed("+experiment=cifar100_wrn_lpbn_swa", "pace=0.3")
    assert times(whole) == (200, 100, 160, [80, 144])
    assert times(part) == (60, 30, 48, [24, 43])
    one, other = asdict(whole), asdict(part)
    for config in (one, other):
        del config["epochs"], config["late_phase"]["T0"], config["averaging"]["start"], config["schedule"]["epochs"]
    assert one == other and part.pace == 1


def test_it_is_the_same_run_as_with_the_times_themselves(composed):
    paced = composed("+experiment=digits_lenet_lpbn", "pace=0.5")
    plain = composed("+experiment=digits_lenet_lpbn", "epochs=30", "late_phase.T0=10", "schedule.epochs=[15,27]")
    assert config_hash(paced) == config_hash(plain) != config_hash(composed("+experiment=digits_lenet_lpbn"))


def test_what_never_comes_stays_so(composed):
    config = composed("+experiment=digits_lenet_base", "pace=0.1")
    assert config.late_phase.T0 is None and config.averaging.start is None and config.epochs == 6


@pytest.mark.parametrize(
    ("pace", "message"),
    [("0", "pace=0.0 is out"), ("-1", "pace=-1.0 is out"), ("inf", "is out of range"), ("0.001", "no whole epoch of epochs=60")],
)
def test_no_pace_is_refused(composed, pace, message):
    with pytest.raises(UserError, match=message):
        composed(f"pace={pace}")


def test_the_pace_is_in_the_name_of_a_runs_directory(main, tmp_path):
    status, _ = main("pace=0.05", "dataset.subset=64", "batch_size=32", "late_phase.K=2", "runtime.progress=false")
    assert not status
    assert (tmp_path / "outputs/digits_lenet_lpbn/pace=0.05,dataset.subset=64,batch_size=32,K=2/seed=0/metrics.json").exists()


EXPERIMENTS = [path.stem for path in sorted((ROOT / "configs" / "experiment").glob("cifar100_*.yaml"))]
OTHERS = ["cifar10_lenet_lpbn", "imagenet_resnet50_lpbn"]


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if "wrn14" not in name] + OTHERS)
def test_a_scale_is_for_experiments_on_images(composed, experiment):
    config = composed(f"+experiment={experiment}", "+scale=digits")
    assert config.dataset.name == "digits" and config.architecture.name == "lenet" and config.epochs <= 90


def test_an_experiment_with_keys_of_another_architecture_is_told_so(main):
    status, _ = main("+experiment=cifar100_wrn14_base", "+scale=digits")
    assert str(status).startswith("error: architecture.width is a key of architecture=wrn, ")
