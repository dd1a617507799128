"""Recomputed and folded BatchNorm statistics against double-precision sums over all examples."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from models import Nested, plain
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from late_phase.running_statistics import evaluation_mode, fold_batchnorm, normalization_layers, recompute_running_statistics


def batches(*sizes: int) -> list[Tensor]:
    """Of images whose mean and scale differ from one batch to the next."""
    random = torch.Generator().manual_seed(0)
    return [torch.randn(n, 3, 8, 8, generator=random, dtype=torch.float64) * (1 + i) + 2 * i for i, n in enumerate(sizes)]


def first_layer(*sizes: int) -> tuple[nn.Sequential, list[Tensor], list[Tensor]]:
    """A model that starts with BatchNorm, which has seen other data, the batches, and each batch as ``[channels, values]``."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()
    model(torch.randn(9, 3, 8, 8, dtype=torch.float64) + 5)
    some = batches(*sizes)
    return model, some, [x.transpose(0, 1).flatten(1) for x in some]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# --------------------------------------------------------------------------------------------------------------- recompute


@pytest.mark.parametrize("sizes", [(8, 8, 8), (8, 8, 3), (5,), (1, 9, 2, 30), (8, 1)])
def test_every_example_counts_the_same(sizes):
    """The mean is that of one big batch; the variance is the mean of the batches' own, by examples."""
    model, some, values = first_layer(*sizes)
    recompute_running_statistics(model, some)
    n = sum(sizes)
    torch.testing.assert_close(model[0].running_mean, torch.cat(values, 1).mean(1), rtol=1e-12, atol=1e-12)
    expected = sum(x.var(1) * size for x, size in zip(values, sizes, strict=True)) / n
    torch.testing.assert_close(model[0].running_var, expected, rtol=1e-12, atol=1e-12)
    assert model[0].num_batches_tracked == len(sizes)
    # The second layer sees what the first one makes of each batch with that batch's own statistics.
    outputs = []
    for x in some:
        normed = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
        outputs.append(model[1](normed).transpose(0, 1).flatten(1))
    torch.testing.assert_close(model[2].running_mean, torch.cat(outputs, 1).mean(1), rtol=1e-9, atol=1e-9)


def test_one_batch_gives_its_own_statistics():
    model, (x,), _ = first_layer(20)
    recompute_running_statistics(model, [x])
    torch.testing.assert_close(model[0].running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(model[0].running_var, x.var((0, 2, 3)))


def test_a_short_last_batch_tells_it_from_torch():
    """Which gives each batch the same weight; batches of one size make the two agree."""
    for sizes, same in (((8, 8, 8), True), ((8, 8, 3), False)):
        model, some, values = first_layer(*sizes)
        twin = copy.deepcopy(model)
        recompute_running_statistics(model, some)
        update_bn(some, twin)
        assert torch.allclose(model[0].running_mean, twin[0].running_mean, rtol=1e-9) == same
        by_batch = sum(x.mean(1) for x in values) / 3
        torch.testing.assert_close(twin[0].running_mean, by_batch, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pack", [lambda x: x, lambda x: (x, "labels"), lambda x: [x, "labels"]], ids=["tensor", "tuple", "list"])
def test_batches_come_alone_or_with_labels_and_once(pack):
    model, some, values = first_layer(4, 2)
    recompute_running_statistics(model, (pack(x) for x in some))
    torch.testing.assert_close(model[0].running_mean, torch.cat(values, 1).mean(1))


def test_weights_gradients_momenta_and_modes_are_left_alone():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.BatchNorm2d(4, momentum=None), nn.Dropout(0.5)
    ).double()
    model[0].eval()
    before, modes = state(model), [module.training for module in model.modules()]
    recompute_running_statistics(model, batches(4, 3))
    assert (model[1].momentum, model[2].momentum) == (0.3, None)
    assert [module.training for module in model.modules()] == modes
    after = state(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{i}.{name}" for i in (1, 2) for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("at", [0, 2])
def test_momenta_and_modes_return_after_an_error(at):
    model = Nested().double()
    model.out.eval()
    layers = normalization_layers(model).values()
    for i, layer in enumerate(layers):
        layer.momentum = 0.1 * i
    modes = [module.training for module in model.modules()]

    def broken():
        yield from batches(4, 3)[:at]
        raise ZeroDivisionError

    for data, error in ((broken(), ZeroDivisionError), ([torch.zeros(2, 5, 8, 8).double()], RuntimeError)):
        with pytest.raises(error):
            recompute_running_statistics(model, data)
        assert [layer.momentum for layer in layers] == [0.1 * i for i in range(3)]
        assert [module.training for module in model.modules()] == modes


def test_dropout_is_off():
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3)).double()
    some = batches(4, 3)
    recompute_running_statistics(model, some)
    torch.testing.assert_close(model[1].running_mean, torch.cat(some).mean((0, 2, 3)))


def test_no_batch_is_refused():
    with pytest.raises(ValueError, match=r"from no batches: pass training data\.$"):
        recompute_running_statistics(plain(), [])


def test_a_model_without_running_statistics_is_left_alone():
    def never():
        raise AssertionError
        yield

    recompute_running_statistics(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)), never())


def test_a_class_of_ones_own_counts():
    """A subclass of BatchNorm, and one that is no BatchNorm by descent but has its buffers."""

    class Scaled(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.momentum = 0.1
            self.register_buffer("running_mean", torch.zeros(3))
            self.register_buffer("running_var", torch.ones(3))

        def reset_running_stats(self) -> None:
            self.running_mean.zero_()

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.running_mean.lerp_(x.mean((0, 2, 3)), self.momentum)
            return x - self.running_mean.view(1, -1, 1, 1)

    some = batches(4, 2, 1)
    expected = torch.cat([x.transpose(0, 1).flatten(1) for x in some], 1).mean(1)
    for layer in (Scaled(3), Centred()):
        model = nn.Sequential(nn.Identity(), layer).double()
        layer.running_mean.fill_(100.0)
        assert normalization_layers(model) == {"1": layer}
        recompute_running_statistics(model, some)
        torch.testing.assert_close(layer.running_mean, expected)
        assert layer.momentum == 0.1


def test_layers_are_found_by_their_buffers():
    model = Nested()
    model.extra = nn.ModuleList([nn.BatchNorm1d(2, track_running_stats=False), nn.LayerNorm(2), nn.BatchNorm1d(2, affine=False)])
    assert list(normalization_layers(model)) == ["blocks.0.0.inner.norm", "blocks.1.0.inner.norm", "out.inner.norm", "extra.2"]


# ------------------------------------------------------------------------------------------------------- modes and folding


def test_modes_return_as_they_were():
    model = Nested()
    model.blocks[0].eval()
    model.out.inner.eval()
    modes = [module.training for module in model.modules()]
    assert len(set(modes)) == 2
    with evaluation_mode(model) as inside:
        assert inside is model
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(ZeroDivisionError), evaluation_mode(model):
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("K", [1, 2, 10])
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_a_folded_layer_is_the_mean_of_the_members_outputs(K, eps):
    random = torch.Generator().manual_seed(K)
    values = {name: torch.randn(K, 6, generator=random, dtype=torch.float64) for name in ("weight", "bias", "running_mean")}
    values["running_var"] = torch.rand(K, 6, generator=random, dtype=torch.float64) + 0.01
    x = torch.randn(11, 6, 4, 5, generator=random, dtype=torch.float64)

    def output(tensors: dict[str, Tensor]) -> Tensor:
        layer = nn.BatchNorm2d(6, eps=eps).double().eval()
        layer.load_state_dict(tensors, strict=False)
        return layer(x)

    expected = sum(output({name: value[k] for name, value in values.items()}) for k in range(K)) / K
    folded = fold_batchnorm(nn.BatchNorm2d(6, eps=eps), values)
    assert {name: tuple(value.shape) for name, value in folded.items()} == dict.fromkeys(values, (6,))
    torch.testing.assert_close(output(folded), expected, rtol=1e-12, atol=1e-12)


def test_folding_by_hand():
    """At ε = 0: 2 (x - 1) / 2 + 3 = x + 2 and 6 (x - 4) / 3 - 1 = 2 x - 9, whose mean is 1.5 x - 3.5."""
    values = {
        "weight": torch.tensor([[2.0], [6.0]]),
        "bias": torch.tensor([[3.0], [-1.0]]),
        "running_mean": torch.tensor([[1.0], [4.0]]),
        "running_var": torch.tensor([[4.0], [9.0]]),
    }
    expected = {"weight": 1.5, "bias": -3.5, "running_mean": 0, "running_var": 1}
    folded = fold_batchnorm(nn.BatchNorm1d(1, eps=0.0), values)
    assert {name: value.item() for name, value in folded.items()} == expected


@pytest.mark.parametrize(
    ("pack", "forward"),
    [
        (lambda x: {"pixels": x, "label": 0, "id": 1}, lambda model, batch: {"logits": model(batch["pixels"])}),
        (lambda x: ((x,), "labels"), lambda model, batch: model(*batch[0])),
        (lambda x: x.numpy(), lambda model, batch: model(torch.from_numpy(batch))),
    ],
    ids=["dict", "nested", "numpy"],
)
def test_examples_are_counted_whatever_a_batch_is(pack, forward):
    """Two examples are 1 and six are 0: 0.25 by examples, 0.5 if each batch counted the same, as the number of its keys does."""
    model = nn.Sequential(nn.BatchNorm1d(1))
    some = [torch.ones(2, 1), torch.zeros(6, 1)]
    recompute_running_statistics(model, [pack(x) for x in some], forward)
    assert model[0].running_mean.item() == 0.25


@pytest.mark.parametrize("container", [dict, tuple])
def test_a_model_that_takes_containers_needs_no_forward(container):
    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def forward(self, x: dict | tuple) -> dict[str, Tensor]:
            return {"logits": self.norm(x["pixels"] if isinstance(x, dict) else x[0])}

    some = [torch.ones(2, 1), torch.zeros(6, 1)]
    model = Takes()
    recompute_running_statistics(model, [{"pixels": x, "mask": 1} if container is dict else ((x,), "labels") for x in some])
    assert model.norm.running_mean.item() == 0.25


def test_a_layer_that_is_used_twice_sees_the_values_of_both():
    norm = nn.BatchNorm1d(1)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.norm(x), self.norm(x[:2] + 4)])

    recompute_running_statistics(Twice(), [torch.zeros(6, 1), torch.zeros(6, 1)])
    torch.testing.assert_close(norm.running_mean, torch.tensor([2 * 2 * 4 / 16]))


def test_layers_that_a_pass_does_not_reach_keep_their_statistics():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.auxiliary = nn.BatchNorm1d(1), nn.BatchNorm1d(1)

        def forward(self, x: Tensor) -> Tensor:
            return self.main(x) + (self.auxiliary(x) if self.training else 0)

    model = Branches()
    model.auxiliary.running_mean.fill_(7)
    recompute_running_statistics(model, [torch.ones(4, 1)])
    assert (model.main.running_mean.item(), model.auxiliary.running_mean.item()) == (1, 7)
    with pytest.raises(ValueError, match="batches that reach no BatchNorm"):
        recompute_running_statistics(model, [torch.ones(4, 1)], forward=lambda model, x: x)
    assert model.main.running_mean.item() == 1


def test_inputs_may_come_by_name_and_a_batch_may_be_empty():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.InstanceNorm1d(1, track_running_stats=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(input=x)

    model = Named()
    recompute_running_statistics(model, [torch.zeros(0, 1, 4), torch.full((2, 1, 4), 3.0)])
    assert model.norm.running_mean.item() == pytest.approx(3)


def frozen_by_mode(model):
    model[0].eval()


def frozen_by_parent(model):
    model.train()
    model[0].eval().requires_grad_(False)


def frozen_in_a_model_in_eval_mode(model):
    model[0].requires_grad_(False)
    model.eval()


@pytest.mark.parametrize("freeze", [frozen_by_mode, frozen_by_parent, frozen_in_a_model_in_eval_mode])
def test_frozen_layers_keep_their_statistics(freeze):
    model = nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1))
    model[0].running_mean.fill_(7)
    freeze(model)
    recompute_running_statistics(model, [torch.ones(4, 1)])
    assert model[0].running_mean.item() == 7
    assert model[1].running_mean.item() != 0 and model[1].num_batches_tracked == 1


def test_scales_may_be_frozen_while_statistics_are_not():
    model = nn.Sequential(nn.BatchNorm1d(1)).train()
    model[0].requires_grad_(False)
    recompute_running_statistics(model, [torch.ones(4, 1)])
    assert model[0].running_mean.item() == 1


def test_constants_that_look_like_running_statistics_stay():
    """torchvision's FrozenBatchNorm2d, which has no momentum and needs no gradient."""
    torch.manual_seed(0)
    model = nn.Sequential(torchvision.ops.FrozenBatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    before = state(model[0])
    recompute_running_statistics(model, [torch.randn(4, 3, 2, 2)])
    assert all(torch.equal(before[name], value) for name, value in model[0].state_dict().items())
    assert model[2].running_mean.abs().sum() > 0
    recompute_running_statistics(model[:1], [])  # nothing to estimate


def test_empty_batches_leave_statistics():
    m = nn.BatchNorm1d(2)
    m(torch.randn(8, 2) + 5)
    before = m.running_mean.clone()
    with pytest.raises(ValueError):
        recompute_running_statistics(m, [])
    assert torch.equal(m.running_mean, before)


def test_dropout_in_bn_subclass():
    class B(nn.BatchNorm1d):
        def __init__(self, n):
            super().__init__(n)
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            assert not self.drop.training
            return super().forward(self.drop(x))

    recompute_running_statistics(B(2), [torch.randn(4, 2)])
