"""SWAG's Gaussian against the moments of the weights that it was given."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from late_phase.methods.swa import SWA
from late_phase.methods.swag import SWAG, swag_weights

N, RANK = 7, 4


def updates() -> list[dict[str, Tensor]]:
    """Correlated weights in two tensors, of 2 x 2 and 3 elements."""
    random = torch.Generator().manual_seed(0)
    mixing = torch.randn(7, 7, generator=random, dtype=torch.float64)
    vectors = torch.randn(N, 7, generator=random, dtype=torch.float64) @ mixing + 3
    return [{"a": vector[:4].view(2, 2), "b": vector[4:]} for vector in vectors]


def posterior(rank: int = RANK) -> SWAG:
    swag = SWAG(rank)
    for weights in updates():
        swag.update(weights)
    return swag


def flat(weights: dict[str, Tensor]) -> Tensor:
    return torch.cat([weights["a"].flatten(), weights["b"]])


def moments() -> tuple[Tensor, Tensor]:
    """Mean and covariance of the posterior, from the definition."""
    vectors = torch.stack([flat(weights) for weights in updates()])
    means = vectors.cumsum(0) / torch.arange(1, N + 1)[:, None]
    D = (vectors - means)[-RANK:].T
    return means[-1], torch.diag(vectors.var(0, correction=0)) + D @ D.T / (RANK - 1)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_samples_have_the_mean_and_covariance_of_the_posterior(scale):
    swag, n = posterior(), 20_000
    random = torch.Generator().manual_seed(1)
    samples = torch.stack([flat(swag.sample(scale, random)) for _ in range(n)])
    mean, covariance = moments()
    covariance = scale * covariance
    variance = covariance.diagonal()
    assert ((samples.mean(0) - mean).abs() < 4.5 * (variance / n).sqrt()).all()
    # Of a Gaussian: Var of an entry of the sample covariance is (C_ij² + C_ii C_jj) / n.
    error = ((covariance**2 + torch.outer(variance, variance)) / n).sqrt()
    assert ((samples.T.cov() - covariance).abs() < 4.5 * error).all()
    assert (covariance[:4, 4:].abs() > 10 * error[:4, 4:]).any(), "tensors that are correlated with each other"


def test_the_low_rank_part_is_that_of_the_last_weights_in_any_number():
    for count in (1, 3, RANK, N):
        swag = SWAG(RANK)
        for weights in updates()[:count]:
            swag.update(weights)
        vectors = torch.stack([flat(weights) for weights in updates()[:count]])
        means = vectors.cumsum(0) / torch.arange(1, count + 1)[:, None]
        n = min(count, RANK)
        expected = (vectors - means)[-n:]
        found = torch.cat([swag.deviations["a"][:n].flatten(1), swag.deviations["b"][:n]], 1)
        order = [(count - n + i) % RANK for i in range(n)]
        torch.testing.assert_close(found[order], expected)


def test_at_scale_0_it_is_swa():
    swa = SWA()
    for weights in updates():
        swa.update(weights)
    sample = posterior().sample(0.0, torch.Generator().manual_seed(0))
    assert all(torch.equal(sample[name], mean) for name, mean in swa.mean.items())


def test_one_update_has_no_spread():
    swag = SWAG(RANK)
    swag.update(updates()[0])
    assert torch.equal(flat(swag.sample(1.0, torch.Generator())), flat(updates()[0]))


def test_samples_are_the_same_each_time_and_differ_from_each_other():
    swag = posterior()
    first, again = ([flat(weights) for weights in swag_weights(swag, 3, 0.5, seed=4)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], flat(next(swag_weights(swag, 1, 0.5, seed=5))))


def test_it_goes_on_from_its_state():
    whole, half = posterior(), SWAG(RANK)
    for weights in updates()[:3]:
        half.update(weights)
    rest = SWAG(RANK)
    rest.load_state_dict(half.state_dict(), torch.device("cpu"))
    for weights in updates()[3:]:
        rest.update(weights)
    sample, other = (swag.sample(1.0, torch.Generator().manual_seed(2)) for swag in (whole, rest))
    assert torch.equal(flat(sample), flat(other)) and math.isfinite(flat(sample).sum())


def test_there_is_nothing_to_sample_from_at_first():
    with pytest.raises(RuntimeError, match=r"call update\(\) before"):
        SWAG(2).sample(1.0, torch.Generator())
