"""What all averages of weights have in common."""

from __future__ import annotations

import copy

import pytest
import torch
from models import minibatches, spawned, train

from late_phase.methods.averaging import Average
from late_phase.methods.ema import EMA
from late_phase.methods.lawa import LAWA
from late_phase.methods.lookahead import SlowWeights
from late_phase.methods.swa import SWA


@pytest.mark.parametrize("empty", [SWA, lambda: EMA(0.9, warmup=True), lambda: LAWA(3), lambda: SlowWeights(0.3)])
def test_it_goes_on_from_its_state(empty):
    model, late = spawned()
    whole: Average = empty()
    rest: Average = empty()
    for i, batch in enumerate(minibatches(7)):
        train(model, late, [batch])
        whole.update(late.weights())
        if i == 3:
            rest.load_state_dict(copy.deepcopy(whole.state_dict()), torch.device("cpu"))
        elif i > 3:
            rest.update(late.weights())
    assert rest.count == whole.count
    assert all(torch.equal(rest.mean[name], value) for name, value in whole.mean.items())
