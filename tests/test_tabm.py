"""BatchEnsemble and late-phase adapters against TabM's own package, with its weights copied.

The package is optional: ``pip install tabm``.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from late_phase import LatePhase
from late_phase.architectures.mlp import MLP
from late_phase.layers.batch_ensemble import BatchEnsemble, EnsembleLayer
from late_phase.layers.rank1 import adapters, parametrize_rank1

tabm = pytest.importorskip("tabm")
K, INPUTS, WIDTH = 3, 5, 8


@pytest.fixture
def theirs() -> nn.Module:
    """TabM with all weights at random, so that none of them can be forgotten."""
    torch.manual_seed(0)
    model = tabm.TabM.make(n_num_features=INPUTS, d_out=2, n_blocks=2, d_block=WIDTH, k=K, dropout=0.0, arch_type="tabm")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model.double()


def their_layers(model: nn.Module) -> list[nn.Module]:
    return [block[0] for block in model.backbone.blocks]


def plain() -> MLP:
    return MLP(INPUTS, 2, depth=2, width=WIDTH).double()


def take_heads(model: nn.Module, weight: Tensor, r: Tensor, s: Tensor, bias: Tensor) -> None:
    """Gives TabM the last layer of member k, which it doesn't share: s_k ∘ W (r_k ∘ x) + b_k."""
    with torch.no_grad():
        model.output.weight.copy_(torch.einsum("oi,ki,ko->kio", weight, r, s))
        model.output.bias.copy_(bias)


def test_batch_ensemble_is_tabm(theirs):
    """Its outputs and its gradients, with shared and with own minibatches."""
    ours = BatchEnsemble(plain(), K, "first", torch.Generator().manual_seed(0)).double()
    layers = [module for module in ours.modules() if isinstance(module, EnsembleLayer)]
    with torch.no_grad():
        for layer, other in zip(layers, their_layers(theirs), strict=False):
            layer.shared.weight.copy_(other.weight)
            for name in ("r", "s", "bias"):
                getattr(layer, name).copy_(getattr(other, name))
        for name in ("r", "s", "bias"):
            getattr(layers[-1], name).normal_()
    head = layers[-1]
    take_heads(theirs, head.shared.weight, head.r, head.s, head.bias)
    x, y = torch.randn(6, INPUTS).double(), torch.randn(6, 2).double()
    expected = theirs(x)
    torch.testing.assert_close(ours(x).unflatten(0, (K, 6)).transpose(0, 1), expected)

    F.mse_loss(ours(x), y.repeat(K, 1)).backward()
    F.mse_loss(expected, y[:, None].expand(-1, K, -1)).backward()
    for layer, other in zip(layers, their_layers(theirs), strict=False):
        torch.testing.assert_close(layer.shared.weight.grad, other.weight.grad)
        for name in ("r", "s", "bias"):
            torch.testing.assert_close(getattr(layer, name).grad, getattr(other, name).grad)

    ours.own_minibatches = True
    own = torch.randn(K * 6, INPUTS).double()
    torch.testing.assert_close(ours(own).unflatten(0, (K, 6)).transpose(0, 1), theirs(own.unflatten(0, (K, 6)).transpose(0, 1)))


def test_late_phase_adapters_are_tabm(theirs):
    model = plain()
    parametrize_rank1(model)
    late = LatePhase(model, torch.optim.AdamW(model.parameters(), 0.1), adapters(), K, sigma0=0.5)
    late.spawn(torch.Generator().manual_seed(0))
    for _ in range(2 * K):
        F.mse_loss(model(torch.randn(4, INPUTS).double()), torch.randn(4, 2).double()).backward()
        late.step()
    members, weights = late.members, late.weights()
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert len(members) == 3 * len(names)
    parts = [
        (
            weights[f"{name}.parametrizations.weight.original"],
            members[f"{name}.parametrizations.weight.0.v"],
            members[f"{name}.parametrizations.weight.0.u"],
            members[f"{name}.bias"],
        )
        for name in names
    ]
    with torch.no_grad():
        for layer, values in zip(their_layers(theirs), parts, strict=False):
            for name, value in zip(("weight", "r", "s", "bias"), values, strict=True):
                getattr(layer, name).copy_(value)
    take_heads(theirs, *parts[-1])
    x = torch.randn(6, INPUTS).double()
    expected = theirs(x)
    for k in range(K):
        with late.member(k) as member, torch.no_grad():
            torch.testing.assert_close(member(x), expected[:, k])


def test_the_start_is_tabms(theirs):
    fresh = tabm.TabM.make(n_num_features=INPUTS, d_out=2, n_blocks=2, d_block=WIDTH, k=K, dropout=0.0, arch_type="tabm")
    ours = [module for module in BatchEnsemble(plain(), K, "first").modules() if isinstance(module, EnsembleLayer)]
    for layer, other in zip(ours, their_layers(fresh), strict=False):
        for name in ("r", "s"):
            assert getattr(layer, name).abs().unique().tolist() == [1] == getattr(other, name).abs().unique().tolist()
            signs = len(getattr(layer, name).unique()), len(getattr(other, name).unique())
            assert signs == ((2, 2) if layer is ours[0] and name == "r" else (1, 1))
        assert (layer.bias == layer.bias[0]).all() and (other.bias == other.bias[0]).all()
