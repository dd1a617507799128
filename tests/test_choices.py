"""What can be registered, and what is said of keys that a choice doesn't have."""

from __future__ import annotations

import pytest

from late_phase import suites
from late_phase.config.choices import CHOICES, options, register
from late_phase.config.training import Chosen
from late_phase.data import ImagesConfig


def test_a_choice_is_made_once_and_in_a_group_that_there_is():
    with pytest.raises(ValueError, match="architecture=lenet already exists: choose another name"):
        register("architecture", "lenet", Chosen, dict)
    with pytest.raises(ValueError, match="architectur is not a group of the config: choose one of dataset, architecture, ensemble"):
        register("architectur", "mine", Chosen, dict)
    for name in ("calibration", "all"):
        with pytest.raises(ValueError, match=f"suite={name} already exists: choose another name"):
            suites.register(name, dict, ("images",))


@pytest.fixture
def mine():
    register("averaging", "mine", Chosen, dict)
    yield
    del CHOICES["averaging"]["mine"]


def test_what_is_registered_is_a_choice(mine):
    assert CHOICES["averaging"]["mine"].config is Chosen


def test_options_are_keys_of_ones_own():
    config = CHOICES["dataset"]["cifar10"].config(name="cifar10", root="somewhere", flip=True)
    assert options(config, ImagesConfig) == {"root": "somewhere"}
    assert options(config)["flip"] is True and "name" not in options(config)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "late_phase.select=[bn*]",
            "late_phase.select is a key of late_phase=select only: choose that, or leave out late_phase.select.",
        ),
        ("architecture.alpha=3", "architecture.alpha is a key of architecture=pyramidnet only: choose that, or leave out"),
        ("+architecture.depth=10", "architecture.depth is a key of architecture=wrn, architecture=pyramidnet, "),
        ("architecture.deph=10", "architecture.deph is not a key of the config: choose one of name, weights, channels_last"),
    ],
)
def test_a_key_of_another_choice_is_told_as_such(main, override, sentence):
    status, _ = main(override)
    assert str(status).startswith(f"error: {sentence}")
