"""BatchEnsemble against a model for each member."""

from __future__ import annotations

import copy

import models
import numpy as np
import pytest
import torch
from models import sgd, train
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import weight_norm

from late_phase.layers.batch_ensemble import BatchEnsemble, EnsembleLayer, fast_weights


def explicit(ensemble: BatchEnsemble, k: int) -> dict[str, Tensor]:
    """The plain model's parameters for member k, made by hand, for autograd to go through."""
    plain = {}
    for name, parameter in ensemble.model.named_parameters():
        prefix, _, key = name.rpartition(".")
        if key in ("r", "s"):
            continue
        if prefix.endswith("shared"):
            prefix = prefix.removesuffix("shared").removesuffix(".")
            layer = ensemble.model.get_submodule(prefix)
            parameter = torch.einsum("o,i,oi...->oi...", layer.s[k], layer.r[k], parameter)
        elif key == "bias" and isinstance(ensemble.model.get_submodule(prefix), EnsembleLayer):
            parameter = parameter[k]
        plain[f"{prefix}.{key}".removeprefix(".")] = parameter
    return plain


def moved(ensemble: BatchEnsemble) -> BatchEnsemble:
    """With other values everywhere, so that the members' biases differ, too."""
    with torch.no_grad():
        for parameter in ensemble.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return ensemble


def sequences() -> nn.Sequential:
    """A linear layer of ``[examples, time, features]``, and layers without bias."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1, padding_mode="reflect", bias=False),
        nn.Flatten(2),
        nn.Linear(16, 6),
        nn.Flatten(),
        nn.Linear(24, 5, bias=False),
    )


@pytest.mark.parametrize("build", [models.plain, models.Nested, sequences])
@pytest.mark.parametrize("init", ["normal", "sign"])
def test_each_member_is_a_model_with_explicit_weights(build, init):
    torch.manual_seed(0)
    plain = build().double().eval()
    ensemble = moved(BatchEnsemble(copy.deepcopy(plain), 3, init).eval())
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    actual = ensemble(x)
    expected = torch.cat([functional_call(plain, explicit(ensemble, k), x) for k in range(3)])
    assert actual.shape == (12, 5)
    torch.testing.assert_close(actual, expected)
    parameters = dict(ensemble.named_parameters())
    pairs = zip(
        torch.autograd.grad(actual.square().sum(), parameters.values()),
        torch.autograd.grad(expected.square().sum(), parameters.values()),
        strict=True,
    )
    for name, (gradient, other) in zip(parameters, pairs, strict=True):
        assert gradient.abs().max() > 1e-6, name
        torch.testing.assert_close(gradient, other, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("build", [models.plain, models.Nested, sequences, lambda: nn.Linear(8, 5)])
def test_plain_members(build):
    torch.manual_seed(0)
    architecture = build().double().eval()
    names, types = list(architecture.state_dict()), [type(module) for module in architecture.modules()]
    ensemble = moved(BatchEnsemble(copy.deepcopy(architecture), 3).eval())
    x = torch.randn(4, 8) if names == ["weight", "bias"] else torch.randn(4, 3, 8, 8)
    blocks = ensemble(x.double()).chunk(3)
    for k in range(3):
        member = ensemble.plain(k)
        assert [type(module) for module in member.modules()] == types
        assert list(member.state_dict()) == names
        assert all(p.requires_grad and p.is_leaf for p in member.parameters())
        torch.testing.assert_close(member(x.double()), blocks[k])
        architecture.load_state_dict(member.state_dict(), strict=True)
        assert torch.equal(architecture(x.double()), member(x.double()))
        with torch.no_grad():
            for parameter in member.parameters():
                parameter.zero_()
    assert torch.equal(ensemble(x.double()), torch.cat(blocks))
    for k in (-1, 3):
        with pytest.raises(IndexError, match=rf"plain\({k}\) does not exist: there are K=3"):
            ensemble.plain(k)


def test_members_train_together():
    """In training, BatchNorm sees the repeated minibatch; W moves along the sum of the members' gradients."""
    torch.manual_seed(0)
    plain = models.plain()
    weight = plain[0].weight
    ensemble = BatchEnsemble(plain, 3)
    assert plain[0].shared.weight is weight
    x, y = models.minibatches(1)[0]
    ensemble(x)
    inner = plain[0](torch.cat([x] * 3))
    torch.testing.assert_close(plain[1].running_mean, 0.1 * inner.mean((0, 2, 3)))
    losses = train(ensemble, sgd(ensemble), [(x, torch.cat([y] * 3))] * 20)
    assert losses[-1] < losses[0] / 2
    assert all(layer.bias.std(0).min() > 0 for layer in ensemble.modules() if isinstance(layer, EnsembleLayer))


def test_fast_weights_and_biases_at_the_start():
    torch.manual_seed(0)
    layer = nn.Linear(3000, 2000)
    bias = layer.bias.detach().clone()

    def values(init: str, seed: int) -> Tensor:
        ensemble = BatchEnsemble(copy.deepcopy(layer), 4, init, torch.Generator().manual_seed(seed))
        assert ensemble.model.r.shape == (4, 3000) and ensemble.model.s.shape == (4, 2000)
        assert torch.equal(ensemble.model.bias, torch.stack([bias] * 4))
        return torch.cat([ensemble.get_parameter(name).detach().flatten() for name in fast_weights().names(ensemble)])

    normal = values("normal", 1)
    assert normal.mean().item() == pytest.approx(1, abs=0.02)
    assert normal.std().item() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(values("normal", 1), normal) and not torch.equal(values("normal", 2), normal)
    signs = values("sign", 1)
    assert signs.unique().tolist() == [-1, 1] and abs(signs.mean()) < 0.05
    elsewhere = BatchEnsemble(nn.Linear(2, 3, device="meta"), 2, generator=torch.Generator())
    assert {parameter.device.type for parameter in elsewhere.parameters()} == {"meta"}


def test_the_selection_is_all_r_and_s():
    ensemble = BatchEnsemble(models.plain(), 2)
    assert fast_weights().names(ensemble) == [f"model.{i}.{key}" for i in (0, 4, 6) for key in ("r", "s")]
    with pytest.raises(ValueError, match=r"^fast_weights\(\) matches no parameter"):
        fast_weights().names(models.plain())


def test_copies_and_saved_states():
    torch.manual_seed(0)
    ensemble = BatchEnsemble(models.Nested(), 2).eval()
    x = torch.randn(4, 3, 8, 8)
    expected = ensemble(x)
    twin, other = copy.deepcopy(ensemble), BatchEnsemble(models.Nested(), 2).eval()
    other.load_state_dict(ensemble.state_dict(), strict=True)
    assert torch.equal(twin(x), expected) and torch.equal(other(x), expected)
    moved(twin)
    assert torch.equal(ensemble(x), expected) and not torch.equal(twin(x), expected)


def test_a_layer_that_is_used_twice_is_replaced_once():
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    ensemble = BatchEnsemble(nn.ModuleDict({"a": nn.Sequential(layer, nn.ReLU(), layer), "b": nn.Sequential(layer)})["a"], 2)
    first, _, second = ensemble.model
    assert first is second and isinstance(first, EnsembleLayer) and len(fast_weights().names(ensemble)) == 2
    member = ensemble.plain(1)
    assert member[0] is member[2]
    x = torch.randn(3, 4)
    torch.testing.assert_close(member(x), ensemble(x)[3:])


def test_autocast_and_channels_last_reach_the_next_layer():
    torch.manual_seed(0)
    ensemble = BatchEnsemble(models.Nested(), 2).to(memory_format=torch.channels_last)
    x = torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        out = ensemble.model.stem(torch.cat([x] * 2))
        assert out.dtype == torch.bfloat16 and out.is_contiguous(memory_format=torch.channels_last)
        ensemble(x).float().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in ensemble.parameters())


def test_a_number_of_another_library_is_one():
    assert BatchEnsemble(models.plain(), np.int64(2))(torch.zeros(3, 3, 8, 8)).shape == (6, 5)


def test_misuse_is_one_sentence_with_the_cure():
    def refused(pattern: str, model: nn.Module, *arguments: object) -> None:
        before = list(model.state_dict())
        with pytest.raises(ValueError, match=pattern) as caught:
            BatchEnsemble(model, *arguments)
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
        assert list(model.state_dict()) == before

    for K in (0, 2.5, True):
        refused(f"K={K} is not", models.plain(), K)
    refused("init='uniform' is unknown", models.plain(), 2, "uniform")
    refused(r"ReLU has no nn\.Linear or nn\.Conv2d", nn.ReLU(), 2)
    refused(
        "layer 1 is of type Conv2d with groups=2, for which fast weights",
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=2)),
        2,
    )
    for layer in (nn.LSTM(3, 3), nn.GRUCell(3, 3), nn.Conv1d(3, 3, 3), nn.ConvTranspose2d(3, 3, 3), nn.Bilinear(3, 3, 3)):
        refused(
            f"layer inner.1 is of type {type(layer).__name__}, for which",
            nn.ModuleDict({"inner": nn.Sequential(nn.Linear(3, 3), layer)}),
            2,
        )
    refused("layer model is of type ParametrizedLinear, for which", weight_norm(nn.Linear(3, 3)), 2)
    twice = models.plain()
    BatchEnsemble(twice, 2)
    refused("layer 0 is of type EnsembleLayer, for which", twice, 2)
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    refused(r"0\.weight and 1\.weight are one parameter: build", tied, 2)


@pytest.mark.parametrize("build", [models.plain, models.Nested, sequences])
def test_the_average_has_the_means_of_the_fast_weights_and_biases(build):
    """Eq. 1, by hand: an ensemble of one member whose fast weights and biases are the means."""
    torch.manual_seed(0)
    ensemble = moved(BatchEnsemble(build().double().eval(), 3))
    one = copy.deepcopy(ensemble)
    with torch.no_grad():
        for layer in (module for module in one.modules() if isinstance(module, EnsembleLayer)):
            for name in ("r", "s", "bias"):
                if (value := getattr(layer, name)) is not None:
                    value.copy_(value.mean(0).expand_as(value))
    average, x = ensemble.average(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    assert average.state_dict().keys() == build().state_dict().keys()
    torch.testing.assert_close(average(x), one.plain(1)(x))
    assert not torch.allclose(average(x), ensemble.plain(1)(x))


def test_members_share_out_their_own_minibatches_in_training_only():
    """Also where the members' shares differ by one."""
    torch.manual_seed(0)
    ensemble = moved(BatchEnsemble(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), 3, own_minibatches=True))
    x = torch.randn(8, 4)
    shares = [ensemble.plain(k)(part) for k, part in enumerate((x[:3], x[3:6], x[6:]))]
    torch.testing.assert_close(ensemble(x), torch.cat(shares))
    assert ensemble.eval()(x).shape == (24, 2)
