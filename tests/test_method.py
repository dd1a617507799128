"""LatePhase against the literal reference, against plain training, and against sums done by hand."""

from __future__ import annotations

import copy
import io

import models
import numpy as np
import pytest
import reference
import schedulefree
import torch
import torch.nn.functional as F
from models import SGD, assert_same, sgd, spawned, train
from torch import Tensor, nn

from late_phase import LatePhase, batchnorm, by_name, by_type, everything, head, nothing

# ------------------------------------------------------------------------------------------------------------ the algorithm


@pytest.mark.parametrize("build", [models.plain, models.Nested])
@pytest.mark.parametrize("optimizer", ["sgd", "sgd with options for phi", "adam"])
@pytest.mark.parametrize(("K", "gamma_theta", "T0"), [(1, 1.0, 4), (3, 1.0, 4), (3, 1 / 3, 0), (10, 1.0, 4), (10, 0.1, 4)])
@pytest.mark.parametrize(("pull", "outer"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.6), (1.0, 0.3)])
def test_follows_the_literal_algorithm(build, optimizer, K, gamma_theta, T0, pull, outer):
    """T0 steps, then three iterations and a part of a fourth, in double precision, to rounding."""
    torch.manual_seed(1)
    model = build().double()
    twin = copy.deepcopy(model)
    phi_options = {"weight_decay": 0.02} if "options" in optimizer else None
    if optimizer == "adam":
        late_optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.005)
        expected = reference.LatePhaseReference(twin, reference.adam(0.01, 0.005))
    else:
        late_optimizer = sgd(model)
        update_phi = reference.nesterov(0.05, 0.9, 0.02) if phi_options else None
        expected = reference.LatePhaseReference(twin, reference.nesterov(0.05, 0.9, 0.005), update_phi)
    late = LatePhase(model, late_optimizer, batchnorm() + head(), K, 0.3, gamma_theta, phi_options, pull, outer)
    batches = models.minibatches(T0 + 3 * K + K // 2, torch.float64)

    train(model, late, batches[:T0])
    for x, y in batches[:T0]:
        expected.inner_step(x, y)
    late.spawn(torch.Generator().manual_seed(5))
    parameters = dict(model.named_parameters())
    phi = [{name: late.members[name][k] for name in late.members if name in parameters} for k in range(K)]
    expected.spawn(phi, [name for name in late.members if name not in parameters], gamma_theta, pull, outer)
    train(model, late, batches[T0:])
    for x, y in batches[T0:]:
        expected.inner_step(x, y)

    late.state_dict()  # brings the live member's values into late.members
    for name, values in late.members.items():
        members = torch.stack([(expected.phi[k] | expected.phi_statistics[k])[name] for k in range(K)])
        torch.testing.assert_close(values, members, rtol=1e-10, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")
    for name, value in expected.theta.items():
        torch.testing.assert_close(parameters[name].detach(), value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("select", [batchnorm() + head(), nothing(), by_name("*")])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_one_member_is_plain_training_bit_for_bit(select, optimizer):
    torch.manual_seed(0)
    model = models.plain()
    twin = copy.deepcopy(model)
    options = SGD if optimizer is torch.optim.SGD else {"lr": 0.01}
    late = LatePhase(model, optimizer(model.parameters(), **options), select, K=1)
    plain = optimizer(twin.parameters(), **options)
    batches = models.minibatches(9)
    before = train(model, late, batches[:4])
    late.spawn()
    assert before + train(model, late, batches[4:]) == train(twin, plain, batches)
    assert_same(model, twin)
    assert_same(late.average(), twin)


def test_before_spawning_it_is_plain_training_bit_for_bit():
    torch.manual_seed(0)
    model = models.plain()
    twin = copy.deepcopy(model)
    late = LatePhase(model, sgd(model), batchnorm(), 10, 0.5, 0.1, {"weight_decay": 1.0})
    assert train(model, late, models.minibatches(5)) == train(twin, sgd(twin), models.minibatches(5))
    assert_same(model, twin)
    assert_same(late.average("folded"), twin)


def test_gradient_accumulation_is_the_empty_selection():
    """Table 10: without φ, an iteration is one step along the sum of K gradients."""
    torch.manual_seed(0)
    model = models.plain().double()
    twin = copy.deepcopy(model)
    late = LatePhase(model, sgd(model), nothing(), K=3, gamma_theta=1 / 3)
    late.spawn()
    batches = models.minibatches(6, torch.float64)
    train(model, late, batches)
    plain = sgd(twin)
    for i in (0, 3):
        for x, y in batches[i : i + 3]:
            (F.cross_entropy(twin(x), y) / 3).backward()
        plain.step()
        plain.zero_grad()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_theta_waits_for_the_end_of_the_iteration_and_phi_does_not():
    model, late = spawned(K=3, steps=0)
    theta = model[0].weight.detach().clone()
    for k, (x, y) in enumerate(models.minibatches(3)):
        before = late.members["1.weight"].clone()
        train(model, late, [(x, y)])
        moved = [not torch.equal(a, b) for a, b in zip(before, late.members["1.weight"], strict=True)]
        assert moved == [i == k for i in range(3)]
        assert torch.equal(model[0].weight, theta) == (k < 2)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_with_pull_1_it_is_a_population_that_is_averaged_after_each_iteration(optimizer):
    """Models of their own, with optimizers of their own, in a literal loop; running statistics stay each model's own."""
    torch.manual_seed(0)
    model = models.plain().double()
    options = SGD if optimizer is torch.optim.SGD else {"lr": 0.01}
    late = LatePhase(model, optimizer(model.parameters(), **options), everything(), K=3, sigma0=0.3, pull=1)
    late.spawn(torch.Generator().manual_seed(0))
    population = [copy.deepcopy(model) for _ in range(3)]
    for k, one in enumerate(population):
        one.load_state_dict({name: values[k] for name, values in late.members.items()})
    own = [optimizer(one.parameters(), **options) for one in population]
    batches = models.minibatches(12, torch.float64)
    train(model, late, batches)
    for i, batch in enumerate(batches):
        train(population[i % 3], own[i % 3], [batch])
        if i % 3 == 2:
            for parameters in zip(*(one.parameters() for one in population), strict=True):
                mean = torch.stack([parameter.data for parameter in parameters]).mean(0)
                for parameter in parameters:
                    parameter.data.copy_(mean)
    for name, values in late.members.items():
        expected = torch.stack([one.state_dict()[name] for one in population])
        torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-12)
        if "running" not in name:
            assert torch.equal(values[0], values[1]), name
    assert not torch.equal(late.members["1.running_mean"][0], late.members["1.running_mean"][1])


def test_gradients_that_their_maker_uses_again_are_added_up_all_the_same():
    """Memory that is filled anew for each minibatch, as in CUDA graphs, and gradients that the user keeps to look at."""
    runs = []
    for reuse in (False, True):
        torch.manual_seed(0)
        model = models.plain()
        late = LatePhase(model, sgd(model), batchnorm(), K=3)
        late.spawn()
        buffers = [torch.zeros_like(parameter) for parameter in model.parameters()]
        for x, y in models.minibatches(7):
            gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
            norms = []
            for parameter, buffer, gradient in zip(model.parameters(), buffers, gradients, strict=True):
                buffer.copy_(gradient)
                parameter.grad = buffer if reuse else gradient
                norms.append(gradient.norm())
            late.step()
            assert norms == [buffer.norm() for buffer in buffers]
        runs.append(model)
    assert_same(*runs)


def test_members_are_not_spawned_or_loaded_in_the_middle_of_a_step():
    for action in (lambda late: late.spawn(), lambda late: late.load_state_dict(late.state_dict())):
        model = models.plain()
        late = LatePhase(model, sgd(model), batchnorm(), K=2)
        x, y = models.minibatches(1)[0]

        def closure(model=model, late=late, action=action, x=x, y=y) -> Tensor:
            action(late)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        with pytest.raises(RuntimeError, match=r"\(\) was called within step\(\), by its closure: call it between steps\.$"):
            late.step(closure)
        assert not late.spawned
        late.spawn()


@pytest.mark.parametrize("K", [np.int64(3), np.uint8(3), torch.tensor(3)], ids=lambda K: type(K).__name__)
def test_numbers_of_other_libraries_are_numbers(K):
    torch.manual_seed(0)
    model = models.plain()
    late = LatePhase(model, sgd(model), batchnorm(), K, sigma0=np.float32(0.5), gamma_theta=np.float64(0.5))
    late.spawn()
    train(model, late, models.minibatches(4))
    with late.member(np.int64(2)):
        pass
    file = io.BytesIO()
    torch.save(late.state_dict(), file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["K"] == 3


# ------------------------------------------------------------------------------------------------------ choices for θ and φ


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_base_weights_are_frozen_at_spawn_with_gamma_theta_0(optimizer):
    """Neither momentum nor weight decay moves them (Table 9)."""
    torch.manual_seed(0)
    model = models.plain()
    late = LatePhase(model, optimizer(model.parameters(), lr=0.05, weight_decay=0.1), batchnorm() + head(), K=3, gamma_theta=0)
    first = copy.deepcopy(model.state_dict())
    train(model, late, models.minibatches(4))
    before = copy.deepcopy(model.state_dict())
    assert not torch.equal(first["0.weight"], before["0.weight"])
    late.spawn()
    train(model, late, models.minibatches(7))
    for name in ("0.weight", "0.bias", "4.weight", "4.bias"):
        assert torch.equal(model.state_dict()[name], before[name]), name
    assert not any(torch.equal(late.members[name][k], before[name]) for name in late.phi for k in range(3))


def test_a_parameter_group_keeps_what_is_fixed_in_it():
    model = models.plain()
    rest = [parameter for name, parameter in model.named_parameters() if not name.startswith("6")]
    groups = [{"params": rest}, {"params": model[6].parameters(), "weight_decay": 0.3, "fixed": ("weight_decay",)}]
    late = LatePhase(
        model, torch.optim.SGD(groups, lr=0.1, weight_decay=0.3), batchnorm() + head(), phi_options={"weight_decay": 0.7}
    )

    def decay_of(parameter: nn.Parameter) -> float:
        (group,) = [group for group in late.param_groups if any(p is parameter for p in group["params"])]
        return group["weight_decay"]

    assert [decay_of(p) for p in (model[0].weight, model[1].weight, model[6].weight)] == [0.3, 0.3, 0.3]
    late.load_state_dict(late.state_dict())  # replaces the groups
    late.spawn()
    assert [decay_of(p) for p in (model[0].weight, model[1].weight, model[6].weight)] == [0.3, 0.7, 0.3]


def test_all_weights_can_be_late_phase_weights():
    """With one member and without noise that is plain training (Section 3.2: a deep ensemble spawned at T0)."""
    torch.manual_seed(0)
    model = models.plain()
    base, batches = copy.deepcopy(model), models.minibatches(9)
    train(base, sgd(base), batches)
    late = LatePhase(model, sgd(model), everything(), K=1)
    train(model, late, batches[:4])
    late.spawn()
    train(model, late, batches[4:])
    assert_same(model, base)
    assert_same(late.average(), base)


# ------------------------------------------------------------------------------------------------------------ wrong use


def test_misuse_is_one_sentence_with_the_cure():
    model = models.plain()
    optimizer = sgd(model)
    schedule_free = schedulefree.SGDScheduleFree(model.parameters())

    def refused(error: type[Exception], pattern: str, *args: object, **options: object) -> None:
        with pytest.raises(error, match=pattern) as caught:
            LatePhase(*args, **options)
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)

    refused(ValueError, r"head\('fc'\) matches no parameter of Sequential: choose", model, optimizer, batchnorm() + head("fc"))
    refused(ValueError, r"by_type\(LSTM\) matches no parameter", model, optimizer, by_type(nn.LSTM))
    for pull in (-0.1, 1.1, float("nan")):
        refused(ValueError, f"^pull={pull} is out of range: choose from 0 to 1", model, optimizer, batchnorm(), pull=pull)
    for outer in (-0.1, 1, float("nan")):
        refused(ValueError, f"^outer={outer} is out of range: choose from 0 to below 1", model, optimizer, batchnorm(), outer=outer)
    refused(ValueError, r"pull=0\.5 pulls late-phase weights together, but there are none", model, optimizer, nothing(), pull=0.5)
    refused(ValueError, r"outer=0\.5 is for the steps of base weights, but none", model, optimizer, everything(), outer=0.5)
    refused(ValueError, r"outer=0\.5 is for .*but none", model, optimizer, batchnorm(), gamma_theta=0, outer=0.5)
    refused(ValueError, r"that the schedule-free optimizer averages: choose 0", model, schedule_free, batchnorm(), pull=0.5)
    for K in (0, -1, 2.0, True, "3", None):
        refused(ValueError, f"K={K} is not", model, optimizer, batchnorm(), K=K)
    refused(ValueError, "sigma0=-0.1 is not", model, optimizer, batchnorm(), sigma0=-0.1)
    refused(ValueError, "sigma0=nan is not", model, optimizer, batchnorm(), sigma0=float("nan"))
    refused(ValueError, "divide='halves' is unknown: choose minibatches or members", model, optimizer, batchnorm(), divide="halves")
    refused(ValueError, "gamma_theta=-1 ", model, optimizer, batchnorm(), gamma_theta=-1)
    refused(ValueError, "phi_options has 'beta'", model, optimizer, batchnorm(), phi_options={"beta": 1})
    refused(TypeError, "select is of type int", model, optimizer, 3)
    refused(TypeError, "select is of type list", model, optimizer, ["1", nn.Linear])
    refused(ValueError, r"by_name\('6\.wieght'\) matches no .*: did you mean 6\.weight", model, optimizer, ["1", "6.wieght"])
    refused(TypeError, "optimizer is of type LBFGS, whose step", model, torch.optim.LBFGS(model.parameters()), batchnorm())
    refused(TypeError, "optimizer is of type list", model, list(model.parameters()), batchnorm())
    refused(ValueError, r"1\.weight is not in the optimizer", model, torch.optim.SGD(model[0].parameters()), batchnorm())
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    refused(ValueError, "build LatePhase before the scheduler", model, optimizer, batchnorm(), phi_options={"lr": 1})
    model[1].bias.requires_grad_(False)
    refused(ValueError, r"late-phase weight 1\.bias is frozen: call", model, optimizer, batchnorm())


def test_wrong_order_is_one_sentence_with_the_cure():
    model = models.plain()
    late = LatePhase(model, sgd(model), batchnorm(), K=2)
    with pytest.raises(RuntimeError, match=r"no gradient: call loss.backward"):
        late.step()
    with pytest.raises(RuntimeError, match="before spawn"), late.member(0):
        pass
    with pytest.raises(RuntimeError, match="before spawn"):
        late.ensemble(torch.zeros(2, 3, 8, 8))
    late.spawn()
    with pytest.raises(RuntimeError, match="spawned once"):
        late.spawn()
    with pytest.raises(RuntimeError, match="no gradient"):
        late.step()
    with pytest.raises(IndexError, match=r"member\(2\) does not exist"), late.member(2):
        pass
    with pytest.raises(RuntimeError, match="inside of a member"), late.member(0):
        late.step()
    with pytest.raises(ValueError, match="'median' is unknown"):
        late.average("median")
    for arguments in (("recompute",), ("mean", [])):
        with pytest.raises(ValueError, match="only 'recompute' takes batches"):
            late.average(*arguments)
    with pytest.raises(ValueError, match="no batches"):
        late.average("recompute", [])
    with pytest.raises(RuntimeError, match="before building"):
        late.add_param_group({"params": []})


def test_what_cannot_be_copied_says_so():
    model, late = spawned()
    with pytest.raises(TypeError, match=r"can't be copied or pickled.*: use state_dict"):
        copy.deepcopy(late)
    model.register_buffer("graph", torch.ones(2, requires_grad=True) * 2, persistent=False)
    with pytest.raises(RuntimeError, match=r"load averaged_state_dict\(\) into a new one"):
        late.average()
    models.plain().load_state_dict(late.averaged_state_dict(), strict=True)
