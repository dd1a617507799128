"""Several members in one pass against the same members one after the other."""

from __future__ import annotations

import copy

import models
import pytest
import torch
import torch.nn.functional as F
from models import assert_same, minibatches, sgd, train
from torch import Tensor, nn

from late_phase import LatePhase, Selection, batchnorm, by_name, everything, head


def loss(model, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = model(images)
    return F.cross_entropy(logits, labels), logits


def pair(build=models.plain, select: Selection | None = None, K: int = 4, adam: bool = False) -> list[LatePhase]:
    """Two equal models in double precision with K equal members each."""
    torch.manual_seed(1)
    model = build().double()
    made = []
    for own in (model, copy.deepcopy(model)):
        optimizer = torch.optim.Adam(own.parameters(), lr=0.01, weight_decay=0.005) if adam else sgd(own)
        late = LatePhase(own, optimizer, select or batchnorm() + head(), K, 0.3, 0.5)
        late.spawn(torch.Generator().manual_seed(5))
        made.append(late)
    return made


def in_one_pass(late: LatePhase, batches: list) -> list[float]:
    losses = []
    for value, _ in late.parallel(loss, batches):
        losses.append(value.item())
        late.step()
    return losses


def assert_close(one: LatePhase, other: LatePhase) -> None:
    close = {"rtol": 1e-12, "atol": 1e-13}
    torch.testing.assert_close(one.members, other.members, **close)
    torch.testing.assert_close(one.model.state_dict(), other.model.state_dict(), **close)


@pytest.mark.parametrize("build", [models.plain, models.Nested])
@pytest.mark.parametrize("select", [batchnorm() + head(), head(), everything()], ids=["batchnorm", "head", "everything"])
@pytest.mark.parametrize("adam", [False, True])
def test_has_the_trajectory_of_members_in_turn(build, select, adam):
    """Three iterations, each in passes of 3 members and 1. With ``head`` the members share the running statistics."""
    one, other = pair(build, select, adam=adam)
    batches = minibatches(12, torch.float64)
    losses = train(one.model, one, batches)
    found = [
        value
        for i in range(0, 12, 4)
        for part in (slice(i, i + 3), slice(i + 3, i + 4))
        for value in in_one_pass(other, batches[part])
    ]
    assert found == pytest.approx(losses, rel=1e-12)
    assert_close(one, other)


def test_a_checkpoint_of_one_way_resumes_in_the_other():
    one, other = pair()
    batches = minibatches(8, torch.float64)
    train(one.model, one, batches)
    in_one_pass(other, batches[:2])
    model = copy.deepcopy(other.model)
    resumed = LatePhase(model, sgd(model), batchnorm() + head(), 4, gamma_theta=0.5)
    resumed.load_state_dict(other.state_dict())
    train(model, resumed, batches[2:])
    assert_close(one, resumed)


def test_what_the_loss_returns_belongs_to_each_minibatch():
    late, _ = pair()
    batches = minibatches(4, torch.float64)
    expected = []
    for k, (images, _) in enumerate(batches):
        with torch.no_grad(), copy_of_member(late, k) as model:
            expected.append(model(images))
    found = []
    for _, logits in late.parallel(loss, batches):
        found.append(logits.detach())
        late.step()
    torch.testing.assert_close(found, expected)


class copy_of_member:
    """Member k in a copy of the model, so that the running statistics stay."""

    def __init__(self, late: LatePhase, k: int) -> None:
        with late.member(k) as model:
            self.model = copy.deepcopy(model)

    def __enter__(self) -> nn.Module:
        return self.model

    def __exit__(self, *error: object) -> None:
        pass


class Branching(nn.Module):
    """Fails after its BatchNorm if several members run at once."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(192, 5)

    def forward(self, images: Tensor) -> Tensor:
        images = self.norm(images)
        return self.head(images.flatten(1) if images.sum().item() < 1e9 else images)


def test_a_pass_that_fails_leaves_no_trace():
    late, other = pair(Branching, batchnorm())
    with pytest.raises(RuntimeError, match=r"can't train several members in one pass .*item.*: train them one after the other"):
        late.parallel(loss, minibatches(4, torch.float64))
    assert all(parameter.grad is None for parameter in late.model.parameters())
    assert_same(late.model, other.model)
    assert all(torch.equal(value, other.members[name]) for name, value in late.members.items())


def test_refuses_what_would_be_wrong():
    late, _ = pair()
    batches = minibatches(5, torch.float64)
    with pytest.raises(ValueError, match="5 minibatches, and 4 of K=4 members are left in this iteration: pass from 1 to 4"):
        late.parallel(loss, batches)
    with pytest.raises(ValueError, match="different shapes"):
        late.parallel(loss, [batches[0], (batches[1][0][:3], batches[1][1][:3])])
    with pytest.raises(RuntimeError, match=r"step\(\) must be called once for each minibatch"):
        list(late.parallel(loss, batches[:2]))
    with late.member(1), pytest.raises(RuntimeError, match="leave the block first"):
        late.parallel(loss, batches[:2])
    model = models.plain()
    with pytest.raises(RuntimeError, match=r"before spawn\(\)"):
        LatePhase(model, sgd(model), batchnorm(), K=2).parallel(loss, batches[:2])


def test_refuses_shared_running_statistics_without_a_momentum():
    late, _ = pair(lambda: nn.Sequential(nn.BatchNorm2d(3, momentum=None), nn.Flatten(), nn.Linear(192, 5)), by_name("2.*"))
    with pytest.raises(RuntimeError, match="running statistics of 0, which isn't a BatchNorm of torch with a momentum"):
        late.parallel(loss, minibatches(2, torch.float64))


def test_frozen_layers_keep_their_running_statistics():
    one, other = pair(select=head())
    for late in (one, other):
        late.model[1].eval()
    batches = minibatches(4, torch.float64)
    train(one.model, one, batches)
    before = other.model[1].running_mean.clone()
    in_one_pass(other, batches)
    assert torch.equal(other.model[1].running_mean, before)
    assert_close(one, other)


def test_late_phase_weights_that_a_pass_does_not_use_get_no_gradient():
    class Unused(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Flatten(), nn.Linear(192, 5))
            self.unused = nn.Parameter(torch.ones(2))

    one, other = pair(Unused, everything())
    batches = minibatches(4, torch.float64)
    train(one.model, one, batches)
    in_one_pass(other, batches)
    assert_close(one, other)


def refused(model: nn.Module, select: Selection, why: str, loss=loss) -> None:
    torch.manual_seed(0)
    late = LatePhase(model, sgd(model), select, 3)
    late.spawn()
    before = copy.deepcopy([late.members, model.state_dict()])
    with pytest.raises(RuntimeError, match=why):
        late.parallel(loss, minibatches(3))
    torch.testing.assert_close([late.members, model.state_dict()], before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_refuses_a_shared_batchnorm_that_runs_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(192, 5)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.norm(self.norm(images)).flatten(1))

    refused(Twice(), head(), "share the running statistic norm.running_mean, which a pass updates several times")


def test_refuses_other_buffers_that_change():
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(192, 5)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, images: Tensor) -> Tensor:
            self.calls.add_(1)
            return self.head(images.flatten(1))

    refused(Counts(), head(), "it changes the buffer calls, which members share")


def test_refuses_a_loss_that_is_no_mean_or_has_no_late_phase_weights():
    def unreduced(model, images, labels):
        return F.cross_entropy(model(images), labels, reduction="none")

    refused(models.plain(), head(), r"the loss of a minibatch has the shape \[7\] and must be one number", unreduced)

    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.unused = nn.Linear(192, 5), nn.Linear(2, 2)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(images.flatten(1))

    refused(Unused(), by_name("unused.*"), "the loss doesn't depend on late-phase weights")


def test_statistics_of_a_layer_that_a_pass_does_not_reach_stay():
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(192, 5)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(images.flatten(1))

    _, late = pair(Idle, head())
    in_one_pass(late, minibatches(4, torch.float64))
    assert late.model.norm.num_batches_tracked == 0


def test_gradients_and_hooks_are_not_lost_in_silence():
    late, _ = pair()
    batches = minibatches(4, torch.float64)
    loss(late.model, *batches[0])[0].backward()
    with pytest.raises(RuntimeError, match="found gradients of another pass"):
        late.parallel(loss, batches[:2])
    late.zero_grad()
    passed = late.parallel(loss, batches[:2])
    late.zero_grad()  # the gradients come with the members
    next(passed)
    assert all(parameter.grad is not None for parameter in late.model.parameters())
    late.zero_grad()
    next(iter(late._phi.parameters.values())).register_hook(lambda gradient: gradient)
    with pytest.raises(RuntimeError, match=r"doesn't call the hook of the late-phase weight 1\.weight"):
        late.parallel(loss, batches[:2])


def test_a_forgotten_last_step_is_noticed():
    late, _ = pair()
    passed = late.parallel(loss, minibatches(2, torch.float64))
    next(passed)
    late.step()
    next(passed)
    with pytest.raises(RuntimeError, match=r"step\(\) must be called once for each minibatch"):
        next(passed)
