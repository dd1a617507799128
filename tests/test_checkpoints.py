"""The bytes that training keeps, against a count by hand."""

from __future__ import annotations

import json

from runs import TINY
from safetensors.torch import load_file

from late_phase.training.loop import run

K = 3
BASE = ("late_phase=none", "late_phase.K=1")


def test_kept_bytes_are_those_of_weights_gradients_and_states(composed, tmp_path):
    def kept(name: str, *overrides: str) -> int:
        run(composed(*TINY, *overrides), tmp_path / name)
        return json.loads((tmp_path / name / "metrics.json").read_text())["kept_bytes"]

    base, late = kept("base", *BASE), kept("late")
    saved = load_file(tmp_path / "base" / "model.safetensors")
    buffers = {name: tensor.nbytes for name, tensor in saved.items() if "running" in name or "num_batches" in name}
    weights = sum(tensor.nbytes for tensor in saved.values()) - sum(buffers.values())
    assert base == 3 * weights + sum(buffers.values()), "weights, gradients and momentum"
    assert kept("ema", *BASE, "averaging=ema") == base + weights
    members = load_file(tmp_path / "late" / "members.safetensors")
    phi = sum(tensor.nbytes for name, tensor in members.items() if name in saved and name not in buffers) // K
    whole = sum(tensor.nbytes for tensor in members.values())
    assert late == base + (weights - phi) + whole + (K - 1) * phi, "sums of θ's gradients, members, and their momentum"
