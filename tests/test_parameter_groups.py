"""Parameter groups under phi_options: which learning rate θ and φ move with, by what they move, under torch's schedulers."""

from __future__ import annotations

from collections.abc import Callable

import models
import optimizers
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

from late_phase import LatePhase, Selection, batchnorm, by_name, everything, head

STEPS = 12
T0 = 4
PHI = by_name("phi")


class Line(nn.Module):
    """θ and φ that have the gradient 1, so that they move by their learning rates."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.phi = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self) -> Tensor:
        return self.theta + self.phi


def advance(scheduler: lr_scheduler.LRScheduler) -> None:
    scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))


def rates(late: LatePhase, scheduler: lr_scheduler.LRScheduler | None = None, T0: int = T0) -> list[tuple[float, float]]:
    """How far θ and φ move in each step, at K = 1; a scheduler steps after each."""
    model, moved = late.model, []
    for i in range(STEPS):
        if i == T0:
            late.spawn()
        before = model.theta.item(), model.phi.item()
        model().backward()
        late.step()
        if scheduler is not None:
            advance(scheduler)
        moved.append((before[0] - model.theta.item(), before[1] - model.phi.item()))
    return moved


def line(phi_options: dict[str, object], select: Selection = PHI, lr: float | Tensor = 0.1, **options: float) -> LatePhase:
    model = Line()
    return LatePhase(model, torch.optim.SGD(model.parameters(), lr=lr, **options), select, K=1, phi_options=phi_options)


def half(step: int) -> float:
    return 0.5**step


SCHEDULERS: dict[str, Callable[..., lr_scheduler.LRScheduler]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, half),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 6]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 6),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 8),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, STEPS + 3, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS + 3),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=2, factor=0.5),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=STEPS + 1, cycle_momentum=False),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 3), lr_scheduler.CosineAnnealingLR(o, STEPS)], [3]
    ),
}


@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("select", [PHI, everything()], ids=str)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_learning_rate_of_phi_follows_the_schedule_from_spawn_on(name, select, tensor):
    """φ moves by five times what the scheduler makes of 0.1, whatever the scheduler starts from; before T0 by as much as θ."""
    alone = torch.optim.SGD(Line().parameters(), lr=0.1)
    scheduler = SCHEDULERS[name](alone)
    expected = []
    for _ in range(STEPS):
        expected.append(alone.param_groups[0]["lr"])
        alone.step()
        advance(scheduler)
    late = line({"lr": 0.5}, select, torch.tensor(0.1, dtype=torch.float64) if tensor else 0.1)
    for i, (theta, phi) in enumerate(rates(late, SCHEDULERS[name](late))):
        five = 5 * expected[i] if i >= T0 else expected[i]
        assert phi == pytest.approx(five), i
        assert theta == pytest.approx(five if len(late.phi) == 2 else expected[i]), i
    assert float(late.param_groups[-1]["lr"]) == pytest.approx(5 * alone.param_groups[0]["lr"])


@pytest.mark.parametrize("name", SCHEDULERS)
def test_members_of_the_first_step_on_have_it_as_well(name):
    late = line({"lr": 0.5})
    moved = rates(late, SCHEDULERS[name](late), T0=0)
    assert all(phi == pytest.approx(5 * theta) for theta, phi in moved)


def test_swa_rates_are_scaled_alike():
    """SWALR comes when training is almost over, and goes to one rate for all groups."""
    late = line({"lr": 0.5})
    rates(late, T0=0)
    moved = rates(late, SWALR(late, swa_lr=0.02, anneal_epochs=3), T0=-1)
    assert moved[-1] == (pytest.approx(0.02), pytest.approx(0.1))


@pytest.mark.parametrize("lr", [0.01, torch.tensor(0.01)], ids=["float", "tensor"])
def test_groups_share_nothing_that_a_scheduler_changes(lr):
    late = line({"weight_decay": 0.0}, lr=lr)
    lr_scheduler.LambdaLR(late, [lambda step: 1.0, lambda step: 0.1])
    assert [float(group["lr"]) for group in late.param_groups] == [pytest.approx(0.01), pytest.approx(0.001)]


def test_groups_share_no_other_mutable_entry():
    model = Line()
    groups = [{"params": model.parameters(), "notes": {"seen": []}, "betas": torch.tensor([0.9, 0.99])}]
    late = LatePhase(model, torch.optim.SGD(groups, lr=0.1), PHI, K=1, phi_options={"weight_decay": 0.1})
    theta, phi = late.param_groups
    phi["notes"]["seen"].append(1)
    phi["betas"][0] = 0
    assert theta["notes"] == {"seen": []} and theta["betas"][0] == 0.9


def test_rates_for_each_group_are_taken_as_they_are():
    late = line({"lr": 0.5})
    moved = rates(late, lr_scheduler.OneCycleLR(late, [0.1, 0.3], total_steps=STEPS + 1, cycle_momentum=False))
    assert all(phi == pytest.approx(3 * theta) for theta, phi in moved[T0:])
    late = line({"lr": 0.5})
    late.spawn()
    for i in range(3):
        late.param_groups[0]["lr"], late.param_groups[1]["lr"] = 0.1 / (i + 1), 0.7
        before = late.model.phi.item()
        late.model().backward()
        late.step()
        assert before - late.model.phi.item() == pytest.approx(0.7)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_momentum_of_phi_stays_under_a_scheduler_that_cycles_it(optimizer):
    model = Line()
    options, own = ({"momentum": 0.9}, {"momentum": 0.5}) if optimizer is torch.optim.SGD else ({}, {"betas": (0.5, 0.99)})
    late = LatePhase(model, optimizer(model.parameters(), lr=0.1, **options), PHI, K=1, phi_options=own)
    scheduler = lr_scheduler.OneCycleLR(late, 0.1, total_steps=STEPS + 1)
    rates(late, scheduler)
    (key,) = own
    assert late.param_groups[1][key] == own[key]
    assert late.param_groups[0][key] not in (own[key], options.get(key))


def manual(late: LatePhase) -> None:
    for group in late.param_groups:
        group["lr"] = 0.05


def manual_decay(late: LatePhase) -> None:
    for group in late.param_groups:
        group["weight_decay"] = 0.3


@pytest.mark.parametrize(
    ("overrule", "options", "what"),
    [
        (lambda late: lr_scheduler.CyclicLR(late, 0.05, 0.1, cycle_momentum=False), {"lr": 0.5}, "lr=0.5, but lr=0.05"),
        (manual, {"lr": 0.5}, "lr=0.5, but lr=0.05"),
        (manual_decay, {"weight_decay": 0.1}, "weight_decay=0.1, but weight_decay=0.3"),
        (lambda late: lr_scheduler.CyclicLR(late, 0.05, 0.1), {"momentum": 0.5}, "momentum=0.5, but momentum=0.9"),
    ],
    ids=["CyclicLR", "a loop", "a loop over decay", "cycled momentum"],
)
def test_what_overrules_phi_options_is_named(overrule, options, what):
    late = line(options, momentum=0.9)
    late.spawn()
    scheduler = overrule(late)
    late.model().backward()
    with pytest.raises(
        RuntimeError, match=rf"^phi_options has {what}.* was set for late-phase and base weights alike: leave .*\.$"
    ):
        late.step()
        scheduler.step()
        late.model().backward()
        late.step()


@pytest.mark.parametrize("name", ["LambdaLR", "OneCycleLR", "CosineAnnealingLR"])
def test_before_spawning_it_is_plain_training_bit_for_bit(name):
    def run(wrap: Callable[[nn.Module, torch.optim.Optimizer], torch.optim.Optimizer]) -> tuple[nn.Module, list[float]]:
        torch.manual_seed(0)
        model = models.plain()
        step = wrap(model, models.sgd(model))
        scheduler, losses = SCHEDULERS[name](step), []
        for batch in models.minibatches(6):
            losses += models.train(model, step, [batch])
            scheduler.step()
        return model, losses

    plain, losses = run(lambda model, optimizer: optimizer)
    model, others = run(lambda model, o: LatePhase(model, o, batchnorm() + head(), 3, phi_options={"lr": 2.0, "weight_decay": 1.0}))
    assert losses == others
    models.assert_same(plain, model)


def test_a_scheduler_that_overrules_is_named_after_a_resumption_before_spawning_too():
    first, second = line({"lr": 0.5}), line({"lr": 0.5})
    for late in (first, second):
        lr_scheduler.CyclicLR(late, 0.05, 0.1, cycle_momentum=False)
    rates(first, T0=-1)
    second.load_state_dict(first.state_dict())
    second.spawn()
    second.model().backward()
    with pytest.raises(RuntimeError, match=r"phi_options has lr=0\.5, but"):
        second.step()


def test_a_loop_that_begins_to_overrule_later_is_named():
    late = line({"lr": 0.5})
    rates(late, T0=0)
    manual(late)
    late.model().backward()
    with pytest.raises(RuntimeError, match=r"phi_options has lr=0\.5, but lr=0\.05 was set"):
        late.step()


def test_an_optimizer_may_come_with_the_state_of_another_training():
    """In which there was a scheduler, so that its groups have an initial learning rate."""
    model = Line()
    before = torch.optim.SGD(model.parameters(), lr=0.1)
    lr_scheduler.LambdaLR(before, half)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.load_state_dict(before.state_dict())
    late = LatePhase(model, optimizer, PHI, K=1, phi_options={"lr": 0.5})
    moved = rates(late, lr_scheduler.LambdaLR(late, half))
    assert moved[T0:] == [(pytest.approx(0.1 * half(i)), pytest.approx(0.5 * half(i))) for i in range(T0, STEPS)]


def test_saving_and_loading_keeps_the_rates():
    """Before T0, and after it under a scheduler whose bounds were scaled."""
    for stop in (2, 7):
        whole, first, second = (line({"lr": 0.5}) for _ in range(3))
        schedulers = [SCHEDULERS["OneCycleLR"](late) for late in (whole, first, second)]
        expected = rates(whole, schedulers[0])

        def go(late, scheduler, steps, moved):
            for i in steps:
                if i == T0:
                    late.spawn()
                before = late.model.theta.item(), late.model.phi.item()
                late.model().backward()
                late.step()
                scheduler.step()
                moved.append((before[0] - late.model.theta.item(), before[1] - late.model.phi.item()))

        moved: list[tuple[float, float]] = []
        go(first, schedulers[1], range(stop), moved)
        second.model.load_state_dict(first.model.state_dict())
        second.load_state_dict(first.state_dict())
        schedulers[2].load_state_dict(schedulers[1].state_dict())
        go(second, schedulers[2], range(stop, STEPS), moved)
        assert moved == expected


def test_parameters_keep_their_names():
    model = models.plain()
    late = LatePhase(model, torch.optim.SGD(model.named_parameters(), lr=0.1), batchnorm(), phi_options={"weight_decay": 1.0})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in late.param_groups:
        assert group["param_names"] == [names[id(parameter)] for parameter in group["params"]]
    assert late.param_groups[1]["param_names"] == ["1.weight", "1.bias", "5.weight", "5.bias"]
    other = LatePhase(model, torch.optim.SGD(model.named_parameters(), lr=0.1), batchnorm(), phi_options={"weight_decay": 1.0})
    other.load_state_dict(late.state_dict())
    assert [group["param_names"] for group in other.param_groups] == [group["param_names"] for group in late.param_groups]


def test_a_rate_of_phi_needs_one_to_be_compared_with():
    with pytest.raises(ValueError, match=r"phi_options has lr=0.5, but the optimizer's own lr is 0.0: give it an lr above 0\.$"):
        line({"lr": 0.5}, lr=0.0)


def test_what_a_user_sets_in_a_group_holds_for_all_members():
    """Here the count that the optimizer itself keeps for each owner, started anew."""
    model = Line()
    late = LatePhase(model, optimizers.CountsInGroup(model.parameters()), PHI, K=3)
    late.spawn()

    def step(k: int) -> float:
        with late.member(k):
            before = model.phi.item()
        model().backward()
        late.step()
        with late.member(k):
            return before - model.phi.item()

    assert [step(k) for k in (0, 1, 2, 0, 1, 2)] == pytest.approx([0.1] * 3 + [0.05] * 3)
    late.param_groups[0]["count"] = 9
    assert [step(k) for k in range(3)] == pytest.approx([0.01] * 3)
