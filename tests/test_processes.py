"""Two processes against one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import models
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from models import minibatches, train
from processes import in_processes
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from late_phase import LatePhase, Selection, batchnorm, everything, head

K, T0, STEPS = 3, 4, 11  # training ends within the third iteration


def without_batchnorm() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 8), nn.Tanh(), nn.Linear(8, 5))


CASES: dict[str, tuple[Any, Selection, str, str]] = {
    "minibatches": (without_batchnorm, head(), "minibatches", "sgd"),
    "minibatches, adam, all weights": (without_batchnorm, everything(), "minibatches", "adam"),
    "members": (models.plain, batchnorm() + head(), "members", "sgd"),
    "members, adam": (models.Nested, batchnorm() + head(), "members", "adam"),
}


def build(case: str, group: dist.ProcessGroup | None = None, seed: int = 1) -> LatePhase:
    """The case's model in double precision, equal for equal seeds, with its optimizer."""
    model, select, divide, optimizer = CASES[case]
    torch.manual_seed(seed)
    model = model().double()
    adam = {"lr": 0.01, "weight_decay": 0.005}
    wrapped = torch.optim.Adam(model.parameters(), **adam) if optimizer == "adam" else models.sgd(model)
    return LatePhase(model, wrapped, select, K, 0.3, 0.5, {"weight_decay": 0.02}, process_group=group, divide=divide)


def batches(case: str) -> list[tuple[Tensor, Tensor]]:
    """Minibatches of an even size. With BatchNorm all are the same before T0: a mean over the processes leaves its gradient."""
    made = [(x[:6], y[:6]) for x, y in minibatches(T0 + STEPS, torch.float64)]
    return [(made[0][0], made[0][1])] * T0 + made[T0:] if CASES[case][2] == "members" else made


def advance(late: LatePhase, rank: int, size: int, own: list[tuple[Tensor, Tensor]]) -> None:
    for x, y in own:
        if not late.mine:
            late.skip()
            continue
        part = slice(None) if late._processes.divide == "members" else slice(rank, None, size)
        F.cross_entropy(late.model(x[part]), y[part]).backward()
        late.step()


def state(late: LatePhase) -> dict[str, Any]:
    return copy.deepcopy({"model": late.model.state_dict(), "late": late.state_dict()})


def all_cases(rank: int) -> dict[str, Any]:
    """Trains each case; stops and resumes it within an iteration."""
    found = {}
    for case in CASES:
        group = dist.group.WORLD
        late = build(case, group, seed=1 + rank)  # other weights than the first process, whose are taken
        data = batches(case)
        advance(late, rank, 2, data[:T0])
        late.spawn(torch.Generator().manual_seed(5 + rank))
        advance(late, rank, 2, data[T0 : T0 + 5])
        late.gather()
        saved = state(late)
        of_first = [saved]
        dist.broadcast_object_list(of_first)  # all processes read the checkpoint that the first one wrote
        resumed = build(case, group)
        resumed.model.load_state_dict(of_first[0]["model"])
        resumed.load_state_dict(of_first[0]["late"])
        for one in (late, resumed):
            advance(one, rank, 2, data[T0 + 5 :])
            one.gather()
        found[case] = {"within": saved, "end": state(late), "resumed": state(resumed)}
    return found | {"bytes": exchanged(rank), "refused": refusals(rank), "ddp": with_ddp(rank), "within": averaged_within(rank)}


def exchanged(rank: int) -> dict[str, float]:
    """Returns the gradients that a process exchanges for a minibatch, as a multiple of all gradients, before T0 and after."""
    found = {}
    for case in ("minibatches", "members"):
        late, data = build(case, dist.group.WORLD), batches(case)
        whole = sum(parameter.numel() * 8 for parameter in late.model.parameters())
        advance(late, rank, 2, data[:T0])
        found[f"{case} before T0"] = late.exchanged / T0 / whole
        late.spawn()
        before = late.exchanged
        advance(late, rank, 2, data[T0 : T0 + 2 * K])
        found[case] = (late.exchanged - before) / (2 * K) / whole
    return found


def refusals(rank: int) -> list[str]:
    """Returns the messages of errors."""

    def message(call: Callable[[], Any]) -> str:
        with pytest.raises((RuntimeError, ValueError)) as raised:
            call()
        return str(raised.value)

    late, data = build("members", dist.group.WORLD), batches("members")
    late.spawn()
    found = [message(late.skip if rank == 0 else late.step)]
    found.append(message(lambda: late.parallel(F.cross_entropy, data[:1])))
    advance(late, rank, 2, data[:1])
    found += [message(call) for call in (late.average, late.state_dict, lambda: late.ensemble(data[0][0]))]
    late.gather()
    late.average()
    model = models.plain()
    of = dict(process_group=dist.group.WORLD, divide="members")
    found.append(message(lambda: LatePhase(model, models.sgd(model), head(), 3, **of)))
    found.append(message(lambda: LatePhase(model, models.sgd(model), batchnorm(), 1, **of)))
    found.append(message(lambda: LatePhase(model, models.sgd(model), batchnorm(), 3, pull=0.5, **of)))
    found.append(message(lambda: LatePhase(model, models.sgd(model), batchnorm(), 3, **(of | {"divide": "images"}))))
    embedding = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Linear(4, 5))
    sparse = LatePhase(embedding, torch.optim.SGD(embedding.parameters()), head("1"), 3, process_group=dist.group.WORLD)
    embedding(torch.arange(5)).sum().backward()
    found.append(message(sparse.step))
    counting = nn.Sequential(Counting(), nn.Linear(4, 5))
    counted = LatePhase(counting, torch.optim.SGD(counting.parameters()), head("1"), 3, **of)
    counted.spawn()
    found.append(message(lambda: an_iteration(counted, torch.randn(2, 4))))
    return found


class Counting(nn.Module):
    """Counts the examples that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen += len(inputs)
        return inputs


def an_iteration(late: LatePhase, inputs: Tensor) -> None:
    for _ in range(late.K):
        if late.mine:
            late.model(inputs).square().mean().backward()
            late.step()
        else:
            late.skip()


def averaged_within(rank: int) -> list[Any]:
    """Weights, members and a member within an iteration of divided minibatches: each process has all members."""
    late, data = build("minibatches", dist.group.WORLD), batches("minibatches")
    late.spawn()
    advance(late, rank, 2, data[:2])
    with late.member(1) as model:
        one = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match=r"state_dict\(\) needs all members"):
        late.state_dict()
    return copy.deepcopy([late.weights(), late.members, one, late.average().state_dict()])


def with_ddp(rank: int) -> dict[str, Any]:
    """A user's loop with DistributedDataParallel, which exchanges nothing itself after the start."""
    torch.manual_seed(rank)
    model = DistributedDataParallel(models.plain())
    late = LatePhase(model, models.sgd(model), batchnorm() + head(), K, process_group=dist.group.WORLD)
    for t, (x, y) in enumerate(batches("minibatches")):
        if t == T0:
            late.spawn()
        with model.no_sync():
            F.cross_entropy(model(x.float()[rank::2]), y[rank::2]).backward()
        late.step()
    late.gather()
    return late.average().state_dict()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return in_processes(all_cases, tmp_path_factory.mktemp("two"))


def one(case: str, steps: int) -> dict[str, Any]:
    late = build(case)
    data = batches(case)
    train(late.model, late, data[:T0])
    late.spawn(torch.Generator().manual_seed(5))
    train(late.model, late, data[T0 : T0 + steps])
    return state(late)


def assert_close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("steps", [5, STEPS])
def test_two_processes_have_the_trajectory_of_one(case, steps, two):
    expected = one(case, steps)
    for process in two:
        found = process[case]["within" if steps == 5 else "end"]
        assert_close(found["model"], expected["model"])
        for part in ("members", "member_states", "optimizer", "groups"):
            assert_close(found["late"][part], expected["late"][part])
    first, second = (process[case]["within" if steps == 5 else "end"]["late"]["theta_gradients"] for process in two)
    assert_close(first, expected["late"]["theta_gradients"])
    assert all(gradient is None for gradient in second)


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_of_two_processes_resumes_in_two_and_in_one(case, two):
    for process in two:
        assert_close(process[case]["resumed"]["model"], process[case]["end"]["model"])
    late = build(case, seed=9)
    late.model.load_state_dict(two[0][case]["within"]["model"])
    late.load_state_dict(two[0][case]["within"]["late"])
    train(late.model, late, batches(case)[T0 + 5 :])
    assert_close(late.model.state_dict(), two[0][case]["end"]["model"])


def test_processes_exchange_the_gradients_of_theta_once_in_an_iteration(two):
    late = build("minibatches")
    share = sum(v.numel() for v in late.model[5].parameters()) / sum(v.numel() for v in late.model.parameters())
    for process in two:
        found = process["bytes"]
        assert found["minibatches before T0"] == pytest.approx(1, rel=0.02)
        assert found["minibatches"] <= (1 / K + share) * 1.02  # and a count for each tensor
        assert found["members"] <= 1 / K * 1.02


def test_refuses_what_would_be_wrong(two):
    (first, *others), (second, *_) = (process["refused"] for process in two)
    assert first == "skip() was called for a minibatch that this process trains: call backward() and step()."
    assert second == "step() was called for member 0, which another process trains: call skip() instead."
    expected = [
        "parallel() works in one process",
        "averaging needs all members, and other processes have some: call gather() on all processes first.",
        "state_dict() needs all members",
        "member(0) needs all members",
        "the members share running statistics such as 1.running_mean",
        "K=1 members can't be divided among 2 processes: choose divide=minibatches, or a larger K.",
        "pull=0.5 needs all members in each process: choose divide=minibatches, or pull=0.",
        "divide='images' is unknown: choose minibatches or members.",
        "sparse gradients can't be exchanged",
        "the members share buffers that they change, such as 0.seen, so they can't be divided: choose divide=minibatches.",
    ]
    for message, start in zip(others, expected, strict=True):
        assert message.startswith(start)


def test_works_in_a_loop_with_distributed_data_parallel(two):
    for (name, value), other in zip(two[0]["ddp"].items(), two[1]["ddp"].values(), strict=True):
        assert torch.equal(value, other), name


def test_processes_that_divide_minibatches_have_all_members_at_any_time(two):
    assert_close(two[0]["within"], two[1]["within"])
