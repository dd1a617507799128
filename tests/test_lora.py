"""LoRA factors against explicit weight matrices, and against PEFT's LoRA."""

from __future__ import annotations

import copy
import math

import models
import pytest
import torch
from torch import Tensor, nn

from late_phase import LatePhase
from late_phase.layers.fold import fold
from late_phase.layers.lora import LoRA, lora, parametrize_lora


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4, bias=False)).double()


def scatter(model: nn.Module, seed: int = 1) -> nn.Module:
    """Gives B, which starts with zeros, other values."""
    for module in model.modules():
        if isinstance(module, LoRA):
            nn.init.normal_(module.B, generator=torch.Generator().manual_seed(seed))
    return model


def by_hand(model: nn.Sequential, x: Tensor, scale: float) -> Tensor:
    """Outputs of :func:`two_layers`, with each product as an explicit matrix."""
    weights = []
    for layer in (model[0], model[2]):
        parts, factors = layer.parametrizations.weight, layer.parametrizations.weight[0]
        weights.append(parts.original + scale * sum(torch.outer(factors.B[:, r], factors.A[r]) for r in range(len(factors.A))))
    return (x @ weights[0].T + model[0].bias).tanh() @ weights[1].T


def test_outputs_and_gradients_are_those_of_the_explicit_matrices():
    model, x = two_layers(), torch.randn(7, 6, dtype=torch.float64)
    parametrize_lora(model, 2, 3.0)
    scatter(model)
    parameters = list(model.parameters())
    out, expected = model(x), by_hand(model, x, 1.5)
    torch.testing.assert_close(out, expected)
    gradients = [torch.autograd.grad(some.square().sum(), parameters) for some in (out, expected)]
    for one, other in zip(*gradients, strict=True):
        assert one.abs().max() > 1e-6
        torch.testing.assert_close(one, other)


@pytest.mark.slow  # its import takes seconds
def test_it_is_the_lora_of_peft():
    """Outputs and gradients with its factors copied, and the merged weights."""
    peft = pytest.importorskip("peft", reason="peft has the reference")
    ours, x = two_layers(), torch.randn(7, 6, dtype=torch.float64)
    theirs = peft.get_peft_model(two_layers(), peft.LoraConfig(r=2, lora_alpha=6, target_modules=["0", "2"], lora_dropout=0.0))
    theirs.base_model.model.double()
    parametrize_lora(ours, 2, 6.0)
    scatter(ours)
    pairs = []
    for i in "02":
        layer, factors = theirs.base_model.model.get_submodule(i), ours.get_submodule(i).parametrizations.weight[0]
        for name, own in (("lora_A", factors.A), ("lora_B", factors.B)):
            other = getattr(layer, name)["default"].weight
            with torch.no_grad():
                other.copy_(own)
            pairs.append((own, other))
    out = ours(x), theirs(x)
    torch.testing.assert_close(*out)
    for some in out:
        some.square().sum().backward()
    for own, other in pairs:
        assert own.grad.abs().max() > 1e-6
        torch.testing.assert_close(own.grad, other.grad)
    torch.testing.assert_close(fold(ours).state_dict(), dict(theirs.merge_and_unload().state_dict()))


def test_nothing_changes_at_first_and_A_starts_like_a_linear_layer():
    torch.manual_seed(0)
    model = models.Nested()
    x = torch.randn(4, 3, 8, 8)
    expected = copy.deepcopy(model)(x)
    parametrize_lora(model, 2, 8.0)
    assert torch.equal(model(x), expected)

    def values(seed: int) -> Tensor:
        other = nn.Sequential(nn.Linear(400, 300))
        parametrize_lora(other, 250, 8.0, torch.Generator().manual_seed(seed))
        assert not other[0].parametrizations.weight[0].B.any()
        return other[0].parametrizations.weight[0].A.detach()

    a, layer = values(1), nn.Linear(400, 250)
    bound = layer.weight.abs().max().item()
    assert bound == pytest.approx(1 / math.sqrt(400), rel=1e-3) and a.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert a.std().item() == pytest.approx(layer.weight.std().item(), rel=0.02) and abs(a.mean().item()) < bound / 100
    assert torch.equal(values(1), a) and not torch.equal(values(2), a)


def test_folding_leaves_a_plain_model():
    model, plain, x = two_layers(), two_layers(), torch.randn(7, 6, dtype=torch.float64)
    parametrize_lora(model, 2, 3.0)
    expected = scatter(model)(x)
    plain.load_state_dict(fold(model).state_dict(), strict=True)
    torch.testing.assert_close(plain(x), expected)
    assert not torch.allclose(two_layers()(x), expected, atol=0.1)


def test_the_selection_is_all_A_and_B_of_the_chosen_matrices():
    model = two_layers()
    parametrize_lora(model, 2, 3.0, matrices="2.*")
    assert lora().names(model) == [f"2.parametrizations.weight.0.{key}" for key in "AB"]
    with pytest.raises(ValueError, match=r"^lora\(\) matches no parameter"):
        lora().names(two_layers())


def test_the_average_has_the_products_of_the_mean_factors():
    """Eq. 1 averages A and B. The mean of the members' products is another matrix."""
    model = two_layers()
    parametrize_lora(model, 2, 3.0)
    late = LatePhase(model, torch.optim.SGD(model.parameters(), 0.3), lora(), K=3, sigma0=1.0)
    late.spawn(torch.Generator().manual_seed(0))
    for _ in range(6):
        late.model(torch.randn(7, 6, dtype=torch.float64)).square().sum().backward()
        late.step()
    single, a, b = late.average(), *(late.members[f"0.parametrizations.weight.0.{key}"] for key in "AB")
    theta = single[0].parametrizations.weight.original
    weight = fold(single)[0].weight
    torch.testing.assert_close(weight, theta + 1.5 * b.mean(0) @ a.mean(0))
    assert not torch.allclose(weight, theta + 1.5 * (b @ a).mean(0), atol=1e-3)


def test_given_weights_can_be_frozen():
    """γ_θ = 0: only the factors learn."""
    model, plain = two_layers(), two_layers()
    parametrize_lora(model, 2, 3.0)
    late = LatePhase(model, torch.optim.Adam(model.parameters(), 0.1, weight_decay=0.1), lora(), K=2, gamma_theta=0.0)
    late.spawn()
    for _ in range(4):
        late.model(torch.randn(7, 6, dtype=torch.float64)).square().sum().backward()
        late.step()
    for i in (0, 2):
        assert torch.equal(model[i].parametrizations.weight.original, plain[i].weight)
        assert late.members[f"{i}.parametrizations.weight.0.B"].abs().min() > 0


def test_misuse_is_one_sentence_with_the_cure():
    def refused(pattern: str, model: nn.Module, rank: int = 2, **options: str) -> None:
        before = list(model.state_dict())
        with pytest.raises(ValueError, match=pattern) as caught:
            parametrize_lora(model, rank, 1.0, **options)
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
        assert list(model.state_dict()) == before

    refused("^Sequential has no linear layer: LoRA factors need one", nn.Sequential(nn.BatchNorm2d(3)))
    refused(r"^matrices='x' matches none of the weights 0\.weight, 2\.weight: choose", two_layers(), matrices="x")
    refused(r"^rank=0 is out of range for these weights: choose from 1 to 4\.$", two_layers(), 0)
    refused(r"^rank=5 is out of range for these weights: choose from 1 to 4\.$", two_layers(), 5)
    twice = two_layers()
    parametrize_lora(twice, 2, 1.0)
    refused("^Sequential has LoRA factors already", twice)
    tied = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5))
    tied[1].weight = tied[0].weight
    refused(r"^0\.weight and 1\.weight are one parameter: build", tied)
