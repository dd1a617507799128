"""Optimizers of many kinds: each moves every member as an optimizer of the member's own would, or is refused in one sentence."""

from __future__ import annotations

import copy
import functools

import models
import optimizers
import pytest
import schedulefree
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from late_phase import LatePhase, batchnorm, everything, head, nothing

# ------------------------------------------------------------------------------------------- against copies of the optimizer


class Copies:
    """Algorithm 1 with an optimizer of its own for θ and for each member, all of them deep copies of the one until T0."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, phi: dict[str, Tensor], K: int) -> None:
        """``phi``: name -> ``[K, ...]``."""
        self.model, self.k, self.K = model, 0, K
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        late = phi.keys() & set(names.values())
        shared = {name: value.clone() for name, value in model.named_buffers() if name not in phi}
        self.statistics = [shared | {name: phi[name][k].clone() for name in phi.keys() - late} for k in range(K)]
        self.theta, self.base = self.part(optimizer, names, lambda name: name not in late)
        self.phi, self.own = zip(*[self.part(optimizer, names, lambda name: name in late) for _ in range(K)], strict=True)
        for k, weights in enumerate(self.phi):
            for name, parameter in weights.items():
                parameter.data.copy_(phi[name][k])

    @staticmethod
    def part(optimizer, names, wanted) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer | None]:
        twin = copy.deepcopy(optimizer)
        weights = {}
        for group, original in zip(twin.param_groups, optimizer.param_groups, strict=True):
            pairs = zip(group["params"], original["params"], strict=True)
            own = {names[id(before)]: parameter for parameter, before in pairs if wanted(names[id(before)])}
            group["params"] = list(own.values())
            weights |= own
        twin.param_groups = [group for group in twin.param_groups if group["params"]]
        return weights, twin if weights else None

    def inner_step(self, x: Tensor, y: Tensor) -> None:
        weights = self.theta | self.phi[self.k]
        loss = F.cross_entropy(functional_call(self.model, weights | self.statistics[self.k], (x,)), y)
        for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            parameter = weights[name]
            parameter.grad = gradient if name in self.phi[self.k] or parameter.grad is None else parameter.grad + gradient
        if self.own[self.k]:
            self.own[self.k].step()
            self.own[self.k].zero_grad()
        self.k = (self.k + 1) % self.K
        if self.k == 0 and self.base:
            self.base.step()
            self.base.zero_grad()

    def call(self, method: str) -> None:
        for optimizer in (*self.own, self.base):
            if optimizer:
                getattr(optimizer, method)()


OPTIMIZERS = {
    "sgd": functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
    "sgd, tensor lr": functools.partial(torch.optim.SGD, lr=torch.tensor(0.05), momentum=0.9),
    "adamw, fused": functools.partial(torch.optim.AdamW, lr=0.01, fused=True),
    "adam, amsgrad": functools.partial(torch.optim.Adam, lr=0.01, amsgrad=True),
    "radam": functools.partial(torch.optim.RAdam, lr=0.02),
    "nadam": functools.partial(torch.optim.NAdam, lr=0.01),
    "rmsprop": functools.partial(torch.optim.RMSprop, lr=0.005, momentum=0.5, centered=True),
    "adagrad": functools.partial(torch.optim.Adagrad, lr=0.02),
    "adadelta": functools.partial(torch.optim.Adadelta, lr=0.5),
    "adamax": functools.partial(torch.optim.Adamax, lr=0.01),
    "asgd": functools.partial(torch.optim.ASGD, lr=0.05, t0=2),
    "rprop": functools.partial(torch.optim.Rprop, lr=0.01),
    "adafactor": functools.partial(torch.optim.Adafactor, lr=0.01),
    "of one's own": optimizers.Plain,
    "counts in its groups": optimizers.CountsInGroup,
    "global norm": optimizers.GlobalNorm,
    "flag at the first step": optimizers.FlagAtFirstStep,
    "state if missing": optimizers.StateIfMissing,
    "schedule-free sgd": functools.partial(schedulefree.SGDScheduleFree, lr=0.1, warmup_steps=3),
    "schedule-free adamw": functools.partial(schedulefree.AdamWScheduleFree, lr=0.02, weight_decay=0.01),
    "schedule-free radam": functools.partial(schedulefree.RAdamScheduleFree, lr=0.02),
}


@pytest.mark.parametrize("select", [batchnorm() + head(), everything(), nothing()], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_members_move_as_with_an_optimizer_of_their_own(name, select):
    """Two steps, T0, two iterations of three members and a part of one; a schedule-free one evaluated in between."""
    torch.manual_seed(0)
    model = models.plain().double()
    optimizer = OPTIMIZERS[name](model.parameters())
    schedule_free = name.startswith("schedule-free")
    late = LatePhase(model, optimizer, select, K=3, sigma0=0.3)
    batches = models.minibatches(10, torch.float64)
    if schedule_free:
        late.train()
    models.train(model, late, batches[:2])
    late.spawn(torch.Generator().manual_seed(0))
    expected = Copies(model, optimizer, late.members, 3)
    for i, (x, y) in enumerate(batches[2:]):
        models.train(model, late, [(x, y)])
        expected.inner_step(x, y)
        if schedule_free and i == 4:
            for call in ("eval", "train"):
                getattr(late, call)()
                expected.call(call)
    if schedule_free:
        late.eval()
        expected.call("eval")
    single = late.averaged_state_dict()
    for key, parameter in expected.theta.items():
        torch.testing.assert_close(single[key], parameter.detach(), rtol=1e-10, atol=1e-12)
    for key in expected.phi[0]:
        own = torch.stack([weights[key].detach() for weights in expected.phi])
        torch.testing.assert_close(late.members[key], own, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(single[key], own.mean(0), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("T0", [0, 2])
def test_members_may_be_without_a_state(T0):
    """At T0 = 0 the optimizer has none, and makes one for each member where it finds none."""
    torch.manual_seed(0)
    model = models.plain().double()
    optimizer = optimizers.StateIfMissing(model.parameters())
    late = LatePhase(model, optimizer, batchnorm() + head(), K=3, sigma0=0.3)
    batches = models.minibatches(8 + T0, torch.float64)
    models.train(model, late, batches[:T0])
    late.spawn(torch.Generator().manual_seed(0))
    expected = Copies(model, optimizer, late.members, 3)
    for x, y in batches[T0:]:
        models.train(model, late, [(x, y)])
        expected.inner_step(x, y)
        late.load_state_dict(late.state_dict())
    for key in expected.phi[0]:
        own = torch.stack([weights[key].detach() for weights in expected.phi])
        torch.testing.assert_close(late.members[key], own, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["schedule-free adamw", "counts in its groups"])
@pytest.mark.parametrize("stop", [1, 3, 4, 7])
def test_what_an_optimizer_keeps_in_its_groups_is_saved(name, stop):
    def start() -> tuple[nn.Module, LatePhase]:
        torch.manual_seed(0)
        model = models.plain()
        late = LatePhase(model, OPTIMIZERS[name](model.parameters()), batchnorm() + head(), 3, 0.2)
        if "schedule-free" in name:
            late.train()
        return model, late

    def go(model: nn.Module, late: LatePhase, first: int, last: int) -> None:
        for i in range(first, last):
            if i == 2:
                late.spawn(torch.Generator().manual_seed(1))
            models.train(model, late, models.minibatches(9)[i : i + 1])

    undisturbed, first, second = start(), start(), start()
    go(*undisturbed, 0, 9)
    go(*first, 0, stop)
    second[0].load_state_dict(first[0].state_dict())
    second[1].load_state_dict(first[1].state_dict())
    go(*second, stop, 9)
    for _, late in (undisturbed, second):
        if "schedule-free" in name:
            late.eval()
    models.assert_same(undisturbed[1].average(), second[1].average())


def test_a_schedule_free_average_is_taken_in_eval_mode_only():
    torch.manual_seed(0)
    model = models.plain()
    late = LatePhase(model, schedulefree.SGDScheduleFree(model.parameters(), lr=0.1), batchnorm(), K=2)
    late.train()
    late.spawn()
    models.train(model, late, models.minibatches(3))
    x = models.minibatches(1)[0][0]
    for use in (late.average, late.averaged_state_dict, lambda: late.ensemble(x)):
        with pytest.raises(RuntimeError, match=r"train mode.*: call late\.eval\(\) first\.$"):
            use()
    late.eval()
    late.ensemble(x)
    with late.member(1):
        one = copy.deepcopy(model.state_dict())
    late.eval()  # again: nothing more to convert
    with late.member(1):
        assert all(torch.equal(one[key], value) for key, value in model.state_dict().items())
    with pytest.raises(Exception, match="not in train mode"):
        models.train(model, late, models.minibatches(1))


# ---------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (torch.optim.LBFGS, "computes gradients by a closure"),
        (functools.partial(schedulefree.SGDScheduleFreeClosure, lr=0.1), "computes gradients by a closure"),
        (optimizers.ListOfOptimizers, r"works through another optimizer \(parts\)"),
        (optimizers.Wrapper, r"works through another optimizer \(base_optimizer\)"),
        (lambda parameters: schedulefree.ScheduleFreeWrapper(torch.optim.SGD(parameters)), "pass a torch optimizer"),
        (list, "pass a torch optimizer"),
    ],
    ids=["LBFGS", "schedule-free closure", "parts", "wrapper", "schedule-free wrapper", "list"],
)
def test_other_kinds_are_refused_when_they_are_handed_in(kind, why):
    model = models.plain()
    with pytest.raises(TypeError, match=rf"^optimizer is of type \w+[,:].*{why}.*\.$"):
        LatePhase(model, kind(model.parameters()), batchnorm())


def test_a_late_phase_is_no_optimizer_for_another():
    model, late = models.spawned()
    with pytest.raises(TypeError, match=r"LatePhase, which works through another optimizer \(optimizer\)"):
        LatePhase(model, late, batchnorm())


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (optimizers.CountsInAttribute, "count"),
        (optimizers.CountsInTracker, "tracker"),
        (optimizers.AveragesInAttribute, "averages"),
        (optimizers.ArrayInAttribute, "counts"),
        (optimizers.CountsInTensorOfGroup, "the Tensor 'count' of a parameter group"),
        (optimizers.ListInGroup, "the list 'rates' of a parameter group"),
        (optimizers.StateOfAll, r"state\['all'\]"),
    ],
)
@pytest.mark.parametrize("after_spawn", [False, True])
def test_state_that_cannot_be_the_members_own_shows_at_the_second_step(kind, what, after_spawn):
    model = models.plain()
    late = LatePhase(model, kind(model.parameters()), batchnorm(), K=2)
    if after_spawn:
        late.spawn()
    models.train(model, late, models.minibatches(1))
    with pytest.raises(TypeError, match=rf"type {kind.__name__}, which keeps {what} for all .*: pass one that .*\.$"):
        models.train(model, late, models.minibatches(1))


def test_methods_that_move_weights_are_not_passed_on():
    model = models.plain()
    late = LatePhase(model, optimizers.SharpnessAware(model.parameters()), batchnorm(), K=2)
    late.spawn()
    for name in ("first_step", "second_step", "move"):
        with pytest.raises(AttributeError, match=rf"doesn't pass on '{name}' of SharpnessAware.*: train with step\(\)"):
            getattr(late, name)
    for name in ("eval", "nonsense", "_private"):
        with pytest.raises(AttributeError, match=f"LatePhase has no '{name}'"):
            getattr(late, name)


def test_hooks_of_steps_are_those_of_the_optimizer():
    """They see each step of θ and of a member's φ."""
    model, late = models.spawned(K=2, steps=0)
    seen = []
    late.register_step_post_hook(lambda optimizer, args, kwargs: seen.append(len(optimizer.param_groups[0]["params"])))
    models.train(model, late, models.minibatches(2))
    assert seen == [6, 6, 4]


def test_parameters_added_behind_its_back_are_noticed():
    model, late = models.spawned()
    late.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    with pytest.raises(RuntimeError, match="groups have changed since LatePhase was built: build LatePhase last"):
        models.train(model, late, models.minibatches(1))


# ---------------------------------------------------------------------------------------------------------------- closures


def closure_of(model: nn.Module, batch: tuple[Tensor, Tensor]):
    def closure() -> Tensor:
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("select", [batchnorm() + head(), nothing()], ids=str)
def test_with_a_closure_a_step_is_the_same(select):
    runs = []
    for by_closure in (False, True):
        torch.manual_seed(0)
        model = models.plain()
        late = LatePhase(model, optimizers.CountsInGroup(model.parameters()), select, K=3, sigma0=0.1)
        losses = []
        for i, batch in enumerate(models.minibatches(9)):
            if i == 2:
                late.spawn(torch.Generator().manual_seed(0))
            if by_closure:
                losses.append(late.step(closure_of(model, batch)).item())
            else:
                losses += models.train(model, late, [batch])
        runs.append((model, losses))
    assert runs[0][1] == runs[1][1]
    models.assert_same(runs[0][0], runs[1][0])


@pytest.mark.parametrize("after_spawn", [False, True])
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (optimizers.SharpnessAware, "more than once, or moves weights before"),
        (optimizers.EvaluatesTwice, "more than once, or moves weights before"),
        (optimizers.MovesFirst, "more than once, or moves weights before"),
        (optimizers.IgnoresClosure, "does not evaluate the closure"),
    ],
)
def test_closures_are_for_optimizers_that_evaluate_them_once(kind, why, after_spawn):
    model = models.plain()
    late = LatePhase(model, kind(model.parameters()), batchnorm(), K=2)
    if after_spawn:
        late.spawn()
    with pytest.raises(RuntimeError, match=rf"the optimizer .*{why}.*\.$"):
        late.step(closure_of(model, models.minibatches(1)[0]))
