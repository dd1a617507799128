"""Predictors: what each of them yields, and what they have in common with each other."""

from __future__ import annotations

import copy

import pytest
import torch
from models import plain, spawned
from torch import Tensor, nn

from late_phase.data.images import Images, Normalization
from late_phase.evaluation import predictors
from late_phase.evaluation.predict import predict
from late_phase.layers.batch_ensemble import BatchEnsemble
from late_phase.methods.deep_ensemble import several
from late_phase.methods.dropout import dropout_layers, mc_dropout
from late_phase.methods.swag import SWAG, swag, swag_weights
from late_phase.running_statistics import running_statistics

NORMALIZATION = Normalization((0.5, 0.4, 0.3), (0.3, 0.2, 0.1))


def images(n: int = 30, seed: int = 0) -> Images:
    random = torch.Generator().manual_seed(seed)
    return Images(torch.randint(256, (n, 3, 8, 8), dtype=torch.uint8, generator=random), torch.randint(5, (n,), generator=random))


def with_dropout(p: float) -> nn.Sequential:
    torch.manual_seed(0)
    model = plain()
    return nn.Sequential(*model[:6], nn.Dropout(p), model[6])


def predicted(predictor: predictors.Predictor, some: Images | None = None, seed: int = 0) -> Tensor:
    return predict(predictor, {"test": some or images()}, NORMALIZATION, seed)["test"]


def test_without_dropout_mc_dropout_is_the_base():
    model = with_dropout(0.0)
    base = predicted(predictors.Single(model))
    found = predicted(mc_dropout(model, 4))
    assert found.shape == (4, 30, 5) and all(torch.equal(sample, base[0]) for sample in found)
    assert dropout_layers(model) == [] and len(dropout_layers(with_dropout(0.2))) == 1


def test_mc_dropout_has_new_masks_for_each_sample_and_example():
    model = with_dropout(0.5)
    model[0].eval()
    modes = [module.training for module in model.modules()]
    same = Images(images(1).pixels.expand(30, -1, -1, -1), torch.zeros(30).long())
    found = predicted(mc_dropout(model, 3), same)
    assert not torch.allclose(found[0], found[1]) and not torch.allclose(found[0, 0], found[0, 1])
    assert [module.training for module in model.modules()] == modes
    # BatchNorm is in eval mode: no example depends on another one.
    state = copy.deepcopy(model.state_dict())
    predicted(mc_dropout(model, 3))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_mc_dropout_is_fixed_by_the_seed_and_uses_up_no_randomness():
    model = with_dropout(0.5)
    before = torch.get_rng_state()
    first, again, other = (predicted(mc_dropout(model, 3), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    splits = {"validation": images(20, 1), "test": images()}
    assert torch.equal(predict(mc_dropout(model, 3), splits, NORMALIZATION)["test"], first)


def test_mc_dropout_averages_to_the_expectation():
    """Of a linear layer behind dropout the mean logit is the logit without dropout."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(192, 5))
    found, n = [], 400
    for k, member in enumerate(mc_dropout(model, n)()):
        torch.manual_seed(k)
        found.append(member(NORMALIZATION(images(3).pixels)).detach())
    samples = torch.stack(found)
    expected = model.eval()(NORMALIZATION(images(3).pixels)).detach()
    assert ((samples.mean(0) - expected).abs() < 4.5 * samples.std(0) / n**0.5).all()


def test_members_are_those_of_the_model():
    model, late = spawned(K=3)
    found = predicted(predictors.members(late.average(), late.members))
    for k in range(3):
        with late.member(k):
            assert torch.equal(found[k], predicted(predictors.Single(model))[0])


def test_members_of_a_batch_ensemble_are_the_blocks_of_its_output():
    torch.manual_seed(0)
    model = BatchEnsemble(plain(), 3)
    found = predicted(predictors.predictor_of(model))
    with torch.no_grad():
        logits = model.eval()(NORMALIZATION(images().pixels))
    torch.testing.assert_close(found, logits.view(3, 30, 5).log_softmax(-1), rtol=1e-4, atol=1e-5)


def test_swag_at_scale_0_is_swa():
    torch.manual_seed(0)
    model, posterior = plain(), SWAG(2)
    for seed in range(3):
        torch.manual_seed(seed)
        posterior.update({name: parameter.detach() for name, parameter in plain().named_parameters()})
    statistics = [running_statistics(model)] * 4
    found = predicted(swag(model, lambda: swag_weights(posterior, 4, 0.0, 0), statistics))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(posterior.mean[name])
    base = predicted(predictors.Single(model))
    assert found.shape == (4, 30, 5) and all(torch.equal(sample, base[0]) for sample in found)
    spread = predicted(swag(model, lambda: swag_weights(posterior, 4, 0.5, 0), statistics))
    assert not torch.allclose(spread[0], spread[1])


def test_several_ensembles_are_one_with_the_members_of_all():
    late, other = spawned(K=3)[1], spawned(K=2, steps=6)[0]
    both = several([predictors.members(late.average(), late.members), predictors.Single(other)])
    found = predicted(both)
    assert torch.equal(found[:3], predicted(predictors.members(late.average(), late.members)))
    assert torch.equal(found[3:], predicted(predictors.Single(other)))
    assert torch.equal(predicted(both), found)


@pytest.mark.parametrize("way", ["members", "swag"])
def test_under_autocast_no_member_is_taken_for_another(way):
    """Autocast keeps a weight's copy in bfloat16, which must not outlive the weight's value."""
    torch.manual_seed(0)
    model = plain()
    values = {name: torch.stack([p.detach() + torch.randn_like(p) * 0.3 for _ in range(3)]) for name, p in model.named_parameters()}
    if way == "members":
        predictor = predictors.members(model, values)
    else:
        weights = [{name: value[k] for name, value in values.items()} for k in range(3)]
        predictor = swag(model, lambda: iter(weights), [{}] * 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = predicted(predictor)
    for k, member in enumerate(predictor()):
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(found[k], predict(predictors.Single(member), {"test": images()}, NORMALIZATION)["test"][0])
