"""Weights in files of every kind, and models that start with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from late_phase.architectures import build
from late_phase.support.errors import UserError

SMALL = {
    "lenet": {},
    "wrn": {"depth": 10, "width": 1},
    "pyramidnet": {"depth": 8, "alpha": 6},
}
KINDS: dict[str, Callable[[dict[str, Tensor], Path], Path]] = {}


def kind(write: Callable[[dict[str, Tensor], Path], object]) -> Callable[[dict[str, Tensor], Path], Path]:
    """A way to write weights, under the name of its function; it also gets the name of the file that it has to write."""
    file = {"safetensors": "w.safetensors", "run": "run/model.safetensors"}.get(write.__name__, "w.pth")

    def to(state: dict[str, Tensor], folder: Path) -> Path:
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        write(state, path)
        return path.parent if write.__name__ == "run" else path

    KINDS[write.__name__] = to
    return to


@kind
def safetensors(state, path):
    save_file(state, path)


@kind
def run(state, path):
    save_file(state, path, metadata={"late_phase": "{}"})


@kind
def plain(state, path):
    torch.save(state, path)


@kind
def legacy(state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False)


@kind
def under_state_dict(state, path):
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {"state": {0: {"step": 1}}}}, path)


@kind
def under_model(state, path):
    torch.save({"model": state, "epoch": 3}, path)


def trained(name: str, classes: int = 7, **options: float) -> nn.Module:
    """A model of which every number differs from a fresh one's, running statistics included."""
    torch.manual_seed(1)
    model = build(name, 3, classes, **(SMALL.get(name, {}) | options))
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            value.fill_(5)
        else:
            value.uniform_(0.5, 1.5)
    return model


def start(name: str, weights: Path | str, classes: int = 7, **options: float) -> nn.Module:
    torch.manual_seed(2)
    return build(name, 3, classes, weights=str(weights), **(SMALL.get(name, {}) | options))


def assert_same(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(state) == list(expected)
    for name, value in expected.items():
        assert torch.equal(state[name], value), name


def refusal(name: str, weights: Path | str, classes: int = 7, **options: float) -> str:
    with pytest.raises(UserError) as caught:
        start(name, weights, classes, **options)
    message = str(caught.value)
    assert message.startswith("architecture.weights=") and message.endswith(".") and "\n" not in message and len(message) < 500
    return message
