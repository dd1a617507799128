"""LatePhase in any use: random models, optimizers, groups and schedulers, and calls in any order.

Whatever is done follows an ensemble of plain optimizers, one for θ and one for each member, or is refused in one sentence.
"""

from __future__ import annotations

import copy
import functools
import io
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import optimizers
import pytest
import schedulefree
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import lr_scheduler

from late_phase import LatePhase, Selection, batchnorm, by_name, by_type, everything, head, nothing

REFUSALS = (ValueError, TypeError, RuntimeError, IndexError, AttributeError)
INPUTS = 3
DOUBLE = torch.float64
TOLERANCE = 1e-9
EPS = 1e-3
"""Of Adam, which else makes the rounding of small gradients as large as a step."""


class Tied(nn.Module):
    """The last layer is the first one's matrix again; a part is not used, a part is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, INPUTS)
        self.norm = nn.LayerNorm(INPUTS)
        self.unused = nn.Linear(2, 2)
        self.frozen = nn.Linear(INPUTS, INPUTS).requires_grad_(False)
        self.last = nn.Linear(INPUTS, INPUTS, bias=False)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.frozen(self.norm(self.first(x)).tanh()))


def normed() -> nn.Module:
    layers = [nn.Linear(INPUTS, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.BatchNorm1d(4, momentum=None), nn.Linear(4, INPUTS)]
    return nn.Sequential(*layers)


MODELS: dict[str, Callable[[], nn.Module]] = {"normed": normed, "tied": Tied, "linear": lambda: nn.Linear(INPUTS, INPUTS)}
SELECTIONS = (batchnorm(), head(), everything(), nothing(), by_type(nn.LayerNorm), by_name("*bias"), by_name("1"), by_name("last"))
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, lr=torch.tensor(0.1, dtype=DOUBLE), momentum=0.5, nesterov=True),
    "adam": lambda p: torch.optim.AdamW(p, lr=0.05, eps=EPS, fused=True),
    "counts": lambda p: optimizers.CountsInGroup(p, lr=0.1),
    "schedule-free": lambda p: schedulefree.AdamWScheduleFree(p, lr=0.05, eps=EPS, warmup_steps=2),
    "sharp": lambda p: optimizers.SharpnessAware(p, lr=0.1),
    "wrapper": lambda p: optimizers.Wrapper(p, lr=0.1),
}
SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "none": lambda o: None,
    "step": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 7),
    "cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=40, cycle_momentum=False),
}
OPTIONS: tuple[dict[str, Any], ...] = ({}, {}, {"weight_decay": 0.1}, {"lr": 0.3}, {"lr": 0.01, "weight_decay": 0.1}, {"K": 2})
CALLS = ("train",) * 6 + ("average", "save", "zero_grad", "schedule", "schedule", "eval", "closure", "misuse")


class Expected:
    """Plain training until T0. Then θ and each member have an optimizer of their own, deep copies of the one before.

    Learning rates are those that the scheduler makes of the groups as they were handed in, those of φ times what its option asks.
    """

    def __init__(self, use: Use) -> None:
        self.model, self.optimizer = use.build()
        clock = use.build()[1]
        self.lrs = [float(group["lr"]) for group in clock.param_groups]
        self.clock, self.scheduler = clock.param_groups, SCHEDULERS[use.scheduler](clock)
        self.K, self.options, self.clock_steps = use.K, use.options, clock.step
        for index, group in enumerate(self.optimizer.param_groups):
            group["index"] = index
        self.k: int | None = None

    def spawn(self, late: list[str], members: dict[str, Tensor]) -> None:
        self.k, self.late = 0, late
        self.parts = [self.part(lambda name: name not in late, {})]
        for k in range(self.K):
            weights, own = self.part(lambda name: name in late, self.options)
            for name, parameter in weights.items():
                parameter.data.copy_(members[name][k])
            self.parts.append((weights, own))
        buffers = dict(self.model.named_buffers())
        self.statistics = [buffers | {n: members[n][k].clone() for n in buffers.keys() & members.keys()} for k in range(self.K)]

    def part(self, wanted: Callable[[str], bool], options: dict[str, Any]) -> tuple[dict[str, nn.Parameter], Any]:
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        twin, weights = copy.deepcopy(self.optimizer), {}
        for group, original in zip(twin.param_groups, self.optimizer.param_groups, strict=True):
            pairs = [(names[id(b)], a) for a, b in zip(group["params"], original["params"], strict=True)]
            own = {name: parameter for name, parameter in pairs if wanted(name)}
            weights |= own
            group.update({key: value for key, value in options.items() if key != "lr"})
            group["params"] = list(own.values())
            group["ratio"] = options["lr"] / self.lrs[group["index"]] if "lr" in options else 1.0
        twin.param_groups = [group for group in twin.param_groups if group["params"]]
        return weights, twin if weights else None

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer] if self.k is None else [optimizer for _, optimizer in self.parts if optimizer]

    def loss(self, weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        """Changes the running statistics of the live member."""
        constants = {name: parameter for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
        statistics = dict(self.model.named_buffers()) if self.k is None else self.statistics[self.k]
        return F.mse_loss(functional_call(self.model, weights | constants | statistics, (x,)), y)

    def weights(self, k: int | None) -> dict[str, Tensor]:
        if k is None:
            return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        return self.parts[0][0] | self.parts[1 + k][0]

    def step(self, x: Tensor, y: Tensor) -> None:
        for optimizer in self.optimizers():
            for group in optimizer.param_groups:
                lr = float(self.clock[group["index"]]["lr"]) * group.get("ratio", 1.0)
                group["lr"] = torch.tensor(lr, dtype=DOUBLE) if isinstance(group["lr"], Tensor) else lr
        weights = self.weights(self.k)
        gradients = torch.autograd.grad(self.loss(weights, x, y), list(weights.values()), allow_unused=True)
        waiting = set() if self.k is None else self.parts[0][0].keys()
        for (name, parameter), gradient in zip(weights.items(), gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if name not in waiting or parameter.grad is None else parameter.grad + gradient
        if self.k is None:
            due = [self.optimizer]
        else:
            due, self.k = [self.parts[1 + self.k][1]], (self.k + 1) % self.K
            due += [self.parts[0][1]] if self.k == 0 else []
        for optimizer in filter(None, due):
            optimizer.step()
            optimizer.zero_grad()

    def advance(self) -> None:
        if self.scheduler is not None:
            self.clock_steps()
            self.scheduler.step()

    def convert(self, method: str) -> None:
        for optimizer in self.optimizers():
            getattr(optimizer, method)()

    def average(self) -> dict[str, Tensor]:
        if self.k is None:
            return self.weights(None)
        return self.parts[0][0] | {n: torch.stack([phi[n].detach() for phi, _ in self.parts[1:]]).mean(0) for n in self.late}


@dataclass(frozen=True)
class Use:
    """What is handed in, and the calls that follow."""

    model: str
    optimizer: str
    groups: int
    named: bool
    select: Selection
    K: int
    sigma0: float
    options: dict[str, Any]
    scheduler: str
    calls: list[str]

    def build(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(1)
        model = MODELS[self.model]().double()
        trained = [(name, p) if self.named else p for name, p in model.named_parameters() if p.requires_grad]
        groups = [{"params": trained[:1], "lr": 0.02}, {"params": trained[1:]}] if self.groups == 2 else trained
        optimizer = OPTIMIZERS[self.optimizer](groups)
        if self.optimizer == "schedule-free":
            optimizer.train()
        return model, optimizer

    def start(self) -> tuple[LatePhase, Any]:
        model, optimizer = self.build()
        late = LatePhase(model, optimizer, self.select, self.K, self.sigma0, phi_options=self.options)
        return late, SCHEDULERS[self.scheduler](late)


def refused(action: Callable[[], Any]) -> bool:
    """Whether it was refused. If so then in one sentence."""
    try:
        action()
    except REFUSALS as error:
        message = str(error)
        assert message.endswith(".") and "\n" not in message and len(message) < 400, message
        return True
    return False


def misuses(late: LatePhase) -> list[Callable[[], Any]]:
    def step_inside() -> None:
        with late.member(0):
            late.step()

    def other_state() -> None:
        late.load_state_dict(late.state_dict() | {"K": late.K + 1})

    def no_state() -> None:
        late.load_state_dict(late.optimizer.state_dict())

    calls = [step_inside, no_state, late.step, lambda: late.average("median"), lambda: late.average("recompute")]
    calls += [lambda: late.average("recompute", [])] if list(late.model.buffers()) else []
    calls += [lambda: late.member(99).__enter__(), lambda: late.first_step()]
    calls += [lambda: late.add_param_group({"params": []}), lambda: late.average(batches=[]), lambda: copy.deepcopy(late)]
    return calls + (
        [late.spawn, other_state] if late.spawned else [lambda: late.member(0).__enter__(), lambda: late.ensemble(torch.ones(1))]
    )


def evaluate(late: LatePhase, x: Tensor, y: Tensor) -> Tensor:
    """A closure."""
    late.zero_grad()
    loss = F.mse_loss(late.model(x), y)
    loss.backward()
    return loss


def follow(use: Use) -> None:
    """Makes the calls, and compares after each of them."""
    started: list[tuple[LatePhase, Any]] = []
    if refused(lambda: started.append(use.start())):
        return
    (late, scheduler), expected = started[0], Expected(use)
    schedule_free, steps, random = use.optimizer == "schedule-free", 0, torch.Generator().manual_seed(0)
    for call in use.calls:
        x, y = torch.randn(2, 5, INPUTS, generator=random, dtype=torch.float64)
        if call == "train" or (call == "zero_grad"):
            F.mse_loss(late.model(x), y).backward()
            if call == "train":
                late.step()
                expected.step(x, y)
                steps += 1
            else:
                late.zero_grad()
                expected.loss(expected.weights(expected.k), x, y)
        elif call == "closure":
            if refused(functools.partial(late.step, functools.partial(evaluate, late, x, y))):
                assert use.optimizer == "sharp"
                return
            expected.step(x, y)
            steps += 1
        elif call == "spawn" and not late.spawned:
            late.spawn(random)
            expected.spawn(late.phi, {name: value.clone() for name, value in late.members.items()})
        elif call == "schedule" and steps and scheduler is not None:
            scheduler.step()
            expected.advance()
        elif call == "eval" and schedule_free:
            for method in ("eval", "train", "train"):
                getattr(late, method)()
                expected.convert(method)
        elif call == "average":
            if schedule_free:
                assert refused(late.average)
                late.eval()
                expected.convert("eval")
            single = dict(late.average().named_parameters())
            for name, value in expected.average().items():
                close(single[name], value)
            if schedule_free:
                late.train()
                expected.convert("train")
        elif call == "save":
            file = io.BytesIO()
            torch.save([late.model.state_dict(), late.state_dict(), scheduler and scheduler.state_dict()], file)
            file.seek(0)
            (late, scheduler), steps = use.start(), 0  # a scheduler wants to see a step first
            model, state, schedule = torch.load(file, weights_only=True)
            late.model.load_state_dict(model)
            late.load_state_dict(state)
            if scheduler is not None:
                scheduler.load_state_dict(schedule)
        elif call == "misuse":
            assert all([refused(misuse) for misuse in misuses(late)])
        compare(late, expected)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.detach(), expected.detach(), rtol=TOLERANCE, atol=TOLERANCE)


def compare(late: LatePhase, expected: Expected) -> None:
    live = dict(late.model.named_parameters())
    for name, value in expected.weights(expected.k).items():
        close(live[name], value)
    for k in range(late.K if late.spawned else 0):
        with late.member(k) as model:
            for name, value in expected.weights(k).items():
                close(dict(model.named_parameters())[name], value)
            for name, value in model.named_buffers():
                close(value, expected.statistics[k][name])


USES = st.builds(
    Use,
    model=st.sampled_from(list(MODELS)),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    groups=st.sampled_from([1, 2]),
    named=st.booleans(),
    select=st.sampled_from(SELECTIONS) | st.builds(operator.add, st.sampled_from(SELECTIONS), st.sampled_from(SELECTIONS)),
    K=st.integers(1, 3),
    sigma0=st.sampled_from([0.0, 0.5]),
    options=st.sampled_from(OPTIONS),
    scheduler=st.sampled_from(list(SCHEDULERS)),
    calls=st.builds(
        lambda before, after: [*before, "spawn", *after],
        st.lists(st.sampled_from(CALLS), max_size=4),
        st.lists(st.sampled_from(CALLS), min_size=3, max_size=12),
    ),
)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(USES)
def test_any_use_is_right_or_refused(use):
    follow(use)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, database=None)
@given(USES)
def test_any_use_is_right_or_refused_at_length(use):
    follow(use)
