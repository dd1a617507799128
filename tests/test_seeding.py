"""Named generators: each purpose has its own stream, and the global ones are as they were after a block."""

from __future__ import annotations

import pytest
import torch

from late_phase.support.seeding import generator, global_generators

CPU = torch.device("cpu")


def test_purposes_and_seeds_have_their_own_streams():
    streams = [torch.rand(4, generator=generator(*purpose)) for purpose in ((0, "a"), (0, "b"), (1, "a"), (0, "a", 1))]
    assert len({tuple(stream.tolist()) for stream in streams}) == 4
    assert torch.equal(streams[0], torch.rand(4, generator=generator(0, "a")))


@pytest.mark.parametrize("seed", [0, 5, 2**63 - 1])
def test_the_global_generator_has_the_seed_within_the_block_only(seed):
    before = torch.get_rng_state()
    with global_generators(CPU, seed):
        found = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found, torch.rand(4, generator=torch.Generator().manual_seed(seed)))
    with global_generators(CPU, seed, "a", 1):
        assert torch.equal(torch.rand(4), torch.rand(4, generator=generator(seed, "a", 1)))
