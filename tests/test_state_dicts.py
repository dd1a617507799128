"""Weights inside of what people save: checkpoints, wrappers, and what must not be taken for weights."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import models
import numpy as np
import pytest
import schedulefree
import torch
from pretrained import assert_same, plain, refusal, start, trained
from torch import Tensor


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in state.items()}


# What people save, and what is said of it.
PACKED: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "DataParallel": (lambda s: prefixed("module.", s), "without the prefix 'module.'"),
    "torch.compile": (lambda s: prefixed("_orig_mod.", s), ""),
    "compiled and distributed": (lambda s: prefixed("module._orig_mod.", s), "without the prefix 'module.'"),
    "a compiled part": (lambda s: {k.replace("groups.", "groups._orig_mod."): v for k, v in s.items()}, ""),
    "a checkpointed part": (
        lambda s: {k.replace("groups.0.", "groups.0._checkpoint_wrapped_module."): v for k, v in s.items()},
        "",
    ),
    "a wrapper of one's own": (lambda s: prefixed("net.backbone.", s), "without the prefix 'net.backbone.'"),
    "model_state_dict": (lambda s: {"epoch": 3, "model_state_dict": s}, "from 'model_state_dict'"),
    "an unusual key": (lambda s: {"epoch": 3, "network": s, "args": {"lr": 0.1}}, "from 'network'"),
    "deeper": (lambda s: {"state": {"net": {"weights": s}}, "rng": torch.ones(3)}, "from 'state.net.weights'"),
    "Lightning": (
        lambda s: {"state_dict": prefixed("model.", s) | {"loss.weight": torch.ones(7)}, "pytorch-lightning_version": "2.5"},
        "from 'state_dict', without the prefix 'model.', without 1 other tensors",
    ),
    "an average beside it": (lambda s: {"model": s, "model_ema": {k: 2 * v for k, v in s.items()}}, "from 'model'"),
    "with what is no tensor": (lambda s: s | {"_extra_state": None, "version": 3}, ""),
    "of training before T0": (
        lambda s: {"model": s, "late": {"K": 3, "phi": ["bn1.weight"], "members": None, "member": None}},
        "from 'model'",
    ),
    "with arguments, as timm's": (
        lambda s: {"state_dict": s, "args": argparse.Namespace(lr=0.1), "metric": np.float64(3)},
        "from 'state_dict'",
    ),
    "with a number for a key": (lambda s: {"model": s, 7: "seven"}, "from 'model'"),
    "schedule-free in eval mode": (
        lambda s: {"model": s, "optimizer": {"state": {0: {"z": torch.ones(1)}}, "param_groups": [{"train_mode": False}]}},
        "from 'model'",
    ),
}


@pytest.mark.parametrize("packed", PACKED)
def test_weights_are_found_as_people_save_them(packed, tmp_path, capsys):
    pack, told = PACKED[packed]
    state = trained("wrn").state_dict()
    weights = plain(pack(state), tmp_path)
    assert_same(start("wrn", weights).state_dict(), state)
    said = capsys.readouterr().err
    assert said == (f"architecture.weights={weights}: weights taken {told}.\n" if told else "")


def test_a_prefix_leaves_the_last_layer_to_other_classes(tmp_path):
    state = trained("wrn", classes=7).state_dict()
    model = start("wrn", plain({"model_state_dict": prefixed("module.", state)}, tmp_path), 4)
    assert torch.equal(model.state_dict()["conv.weight"], state["conv.weight"]) and model.head.weight.shape[0] == 4


def test_several_weights_are_not_chosen_from(tmp_path):
    state = trained("lenet").state_dict()
    message = refusal("lenet", plain({"teacher": state, "student": state}, tmp_path))
    assert " holds several sets of weights of lenet ('teacher' and 'student'): save one of them." in message
    message = refusal("lenet", plain({"state_dict": prefixed("teacher.", state) | prefixed("student.", state)}, tmp_path))
    assert " ('state_dict.teacher' and 'state_dict.student'): " in message


def test_a_prefix_does_not_hide_a_misfit(tmp_path):
    state = prefixed("module.", trained("lenet").state_dict())
    del state["module.conv2.weight"]
    assert " as it is set (1 missing: conv2.weight): " in refusal("lenet", plain(state, tmp_path))


def test_weights_in_the_middle_of_training_are_refused(tmp_path):
    """A member for the average, and what a schedule-free optimizer has in train mode for its average."""
    model, late = models.spawned(K=3)
    message = refusal("lenet", plain({"model": model.state_dict(), "late": late.state_dict()}, tmp_path))
    assert (
        " is a checkpoint of late-phase training, whose model is only one of the members: choose the model.safetensors" in message
    )
    lightning = {"state_dict": model.state_dict(), "optimizer_states": [late.state_dict()]}
    assert " whose model is only one of the members: " in refusal("lenet", plain(lightning, tmp_path))
    deep = {"model": model.state_dict(), "trainer": {"optimizers": {"all": [{"late": late.state_dict()}]}}}
    assert " whose model is only one of the members: " in refusal("lenet", plain(deep, tmp_path))
    optimizer = schedulefree.SGDScheduleFree(model.parameters(), lr=0.1)
    optimizer.train()
    models.train(model, optimizer, models.minibatches(1))
    message = refusal("lenet", plain({"net": model.state_dict(), "training": {"optimizer": optimizer.state_dict()}}, tmp_path))
    assert " is a checkpoint of a schedule-free optimizer in train mode: " in message
