"""The cost of late-phase rank-1 weights compared with torch's plain fused LSTM, on random text at the paper's size."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from late_phase import LatePhase, architectures
from late_phase.benchmark.workloads import Sizes, train
from late_phase.data.segments import Segments
from late_phase.data.text import Vocabulary
from late_phase.layers.rank1 import parametrize_rank1, rank1
from late_phase.optimization import optimizers
from late_phase.support.timing import Block, measure, timed

ADAM = {"lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-8}


def rank1_over_lstm(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Measures an iteration of K inner steps with carried hidden state, in seconds per 50,000 bytes. Each block has a new model."""
    vocabulary = Vocabulary(tuple(range(sizes.symbols)))
    content = torch.randint(sizes.symbols, (sizes.batch * sizes.length * sizes.K + 1,), dtype=torch.uint8)

    def blocks(K: int | None) -> Iterator[float]:
        while True:
            model = architectures.build("lstm", sizes.symbols, units=sizes.units).to(device)
            if K is not None:
                parametrize_rank1(model, 0.01, matrices="lstm.weight_hh_l0")
            optimizer = optimizers.build("adam", model, **ADAM)
            if K is not None:
                optimizer = LatePhase(model, optimizer, rank1(), K, sigma0=0.35)
            segments = Segments(content, vocabulary, sizes.batch, sizes.length, True, device)
            minibatches = list(segments.epoch(0))
            forward = partial(segments.outputs, model)
            train(forward, optimizer, minibatches[:1])  # gives Adam its moments
            if K is not None:
                optimizer.spawn()
            yield timed(partial(train, forward, optimizer, minibatches), device, len(content) - 1)

    ours: Block = blocks(sizes.K).__next__
    return measure("rank1_over_lstm", 1.05, ours, blocks(None).__next__, sizes.pairs)
