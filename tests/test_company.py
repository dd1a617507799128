"""LatePhase in the company of other people's models and of torch's ways of running them."""

from __future__ import annotations

import copy

import models
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
from models import assert_same, sgd, spawned, train
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from late_phase import LatePhase, batchnorm, head
from late_phase.ensemble import ensemble_log_probs

ZOO = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=5), head("fc")),
    "densenet121": (lambda: torchvision.models.densenet121(num_classes=5), head("classifier")),
    "nested": (models.Nested, head("classifier")),
    "plain": (models.plain, head()),
}
SIZES = {"resnet18": 32, "densenet121": 32}


def trained(build, select, batches, forward=lambda model: model, autocast=False, K=2):
    """Two steps before T0, then K + 1 inner steps: a whole iteration and a part of one."""
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    late = LatePhase(model, optimizer, batchnorm() + select, K, sigma0=0.1)
    run = forward(model)
    for i, (x, y) in enumerate(batches[: 3 + K]):
        if i == 2:
            late.spawn(torch.Generator().manual_seed(0))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(run(x), y)
        loss.backward()
        late.step()
    return model, late


@pytest.mark.parametrize("name", ZOO)
def test_any_model_trains_late_phase_and_comes_out_plain(name):
    build, select = ZOO[name]
    model, late = trained(build, select, models.minibatches(5, size=SIZES.get(name, 8)))
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(late.members) == 5 * len(layers) + 2
    fresh = build()
    single = late.average()
    fresh.load_state_dict(single.state_dict(), strict=True)
    assert [type(m) for m in single.modules()] == [type(m) for m in fresh.modules()]
    assert sum(p.numel() for p in single.parameters()) == sum(p.numel() for p in fresh.parameters())
    x = models.minibatches(1, size=SIZES.get(name, 8))[0][0]
    assert torch.equal(fresh.eval()(x), single.eval()(x))
    with late.member(1):
        one = copy.deepcopy(model)
    assert not torch.equal(one.state_dict()[late.state_dict()["phi"][0]], single.state_dict()[late.state_dict()["phi"][0]])


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_torch_compile_follows_the_eager_model(backend):
    build, select = ZOO["nested"]
    batches = models.minibatches(5)
    _, eager = trained(build, select, batches)
    compiles = []
    torch._dynamo.reset()

    def compiled(model):
        def counting(graph, inputs):
            compiles.append(graph)
            return torch._dynamo.lookup_backend(backend)(graph, inputs)

        return torch.compile(model, backend=counting)

    model, late = trained(build, select, batches, forward=compiled)
    assert len(compiles) == 1  # entering another member makes no new graph
    for a, b in zip(eager.average().state_dict().values(), late.average().state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert LatePhase(torch.compile(model), torch.optim.SGD(model.parameters()), batchnorm()).model is model


def test_bf16_autocast_keeps_weights_in_fp32():
    build, select = ZOO["nested"]
    model, late = trained(build, select, models.minibatches(5), autocast=True)
    exact = trained(build, select, models.minibatches(5))[1]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    for name, value in late.average().state_dict().items():
        assert torch.isfinite(value).all(), name
    # bf16 has 8 bits: near to the fp32 trajectory, and not it
    change = late.average().state_dict()["blocks.0.1.weight"] - exact.average().state_dict()["blocks.0.1.weight"]
    assert 0 < change.abs().max() < 0.02


def test_channels_last_stays_and_changes_nothing_but_rounding():
    build, select = ZOO["nested"]
    batches = models.minibatches(5)
    contiguous = trained(build, select, batches)[1].average()
    _model, late = trained(lambda: build().to(memory_format=torch.channels_last), select, batches)
    single = late.average()
    assert single.blocks[0][1].weight.is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(contiguous.state_dict().values(), single.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gradient_as_bucket_view", [False, True])
def test_distributed_data_parallel_is_looked_through(tmp_path, gradient_as_bucket_view):
    """One process, bit for bit: its gradients are the plain model's, whether they are copies or views of DDP's own memory."""

    def run(wrap):
        torch.manual_seed(0)
        model = models.Nested()
        wrapped = wrap(model)
        late = LatePhase(wrapped, models.sgd(wrapped), batchnorm() + head("classifier"), 3, 0.3, 0.5)
        assert late.model is model
        batches = models.minibatches(10)
        losses = models.train(wrapped, late, batches[:2])
        late.spawn(torch.Generator().manual_seed(0))
        return model, late, losses + models.train(wrapped, late, batches[2:])

    plain, expected, expected_losses = run(lambda model: model)
    dist.init_process_group("gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1)
    try:
        model, late, losses = run(lambda model: DistributedDataParallel(model, gradient_as_bucket_view=gradient_as_bucket_view))
        assert losses == expected_losses
        models.assert_same(model, plain)
        for name, values in expected.members.items():
            assert torch.equal(late.members[name], values), name
        single = late.average()
        models.assert_same(single, expected.average())
        models.Nested().load_state_dict(single.state_dict(), strict=True)  # plain keys
    finally:
        dist.destroy_process_group()


def test_sharded_late_phase_weights_are_refused(tmp_path):
    dist.init_process_group("gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1)
    try:
        model = models.plain()
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(TypeError, match=r"late-phase weight 1\.weight is sharded \(a DTensor\): keep it whole"):
            LatePhase(model, sgd(model), batchnorm())
    finally:
        dist.destroy_process_group()


def test_data_parallel_is_looked_through():
    model = models.plain()
    late = LatePhase(nn.DataParallel(model), sgd(model), batchnorm() + head("6"), K=2)
    assert late.model is model and late.phi[-1] == "6.bias"


def test_members_are_told_apart_within_one_autocast_block():
    """Autocast keeps a weight's copy in bfloat16, which must not outlive the member that the weight belonged to."""
    model, late = models.spawned(K=3, sigma0=1.0)
    x = models.minibatches(1)[0][0]
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        together = late.ensemble(x)
    alone = []
    for k in range(3):
        with torch.no_grad(), late.member(k), torch.autocast("cpu", torch.bfloat16):
            alone.append(model(x).log_softmax(-1))
    assert torch.equal(together, ensemble_log_probs(torch.stack(alone)))


@pytest.mark.parametrize("given", ["late", "optimizer"])
def test_schedulers_see_an_optimizer(given):
    """The learning rate follows the schedule for θ and φ, as in plain training; K = 1, so that all can be compared."""
    torch.manual_seed(0)
    model = models.plain()
    twin = copy.deepcopy(model)
    optimizer, plain = sgd(model), sgd(twin)
    late = LatePhase(model, optimizer, batchnorm(), K=1)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=8, cycle_momentum=True)
        for o in (late if given == "late" else optimizer, plain)
    ]
    for i, batch in enumerate(models.minibatches(7)):
        if i == 3:
            late.spawn()
        train(model, late, [batch])
        train(twin, plain, [batch])
        for schedule in schedules:
            schedule.step()
    assert late.param_groups[0]["lr"] == plain.param_groups[0]["lr"]
    assert_same(model, twin)


@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler_unscales_each_minibatch_and_skips_an_infinite_one(fused):
    """With a scale that changes in the middle of an iteration the sum of gradients is still that of the true ones."""
    torch.manual_seed(0)
    model = models.plain()
    twin = copy.deepcopy(model)
    late = LatePhase(model, sgd(model, fused=fused), batchnorm(), K=3)
    expected = LatePhase(twin, sgd(twin), batchnorm(), K=3)
    late.spawn()
    expected.spawn()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
    for i, (x, y) in enumerate(models.minibatches(8)):
        loss = F.cross_entropy(model(x), y)
        late.zero_grad()
        scaler.scale(loss * (float("inf") if i == 4 else 1)).backward()
        scaler.unscale_(late)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5, error_if_nonfinite=False)
        scaler.step(late)
        scaler.update()
        if i == 4:
            twin(x)  # the running statistics have seen the minibatch
        else:
            F.cross_entropy(twin(x), y).backward()
            nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
            expected.step()
    assert scaler.get_scale() != 4.0
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_closure_is_evaluated_once():
    model, late = spawned(steps=0)
    calls = []

    def closure() -> Tensor:
        x, y = models.minibatches(1)[0]
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        calls.append(loss.item())
        return loss

    assert late.step(closure).item() == calls[0]
    assert len(calls) == 1


def test_a_wrapper_that_copies_the_attributes_is_the_same_optimizer():
    """Lightning's wrapper is an instance of a new class with a copy of the attributes."""
    (x, y), *_ = models.minibatches(1)
    outcomes = []
    for wrap in (False, True):
        torch.manual_seed(0)
        model = models.plain()
        late = LatePhase(model, sgd(model), batchnorm() + head(), K=2)
        used = late
        if wrap:
            used = object.__new__(type("Wrapper", (LatePhase,), {}))
            used.__dict__ = dict(late.__dict__)
        used.spawn()
        for _ in range(3):
            F.cross_entropy(model(x), y).backward()
            used.step()
        assert late.spawned and late.state_dict()["member"] == used.state_dict()["member"] == 1
        with used.member(0), pytest.raises(RuntimeError, match="leave the block first"):
            late.step()
        outcomes.append(late.average())
    assert_same(*outcomes)


def test_a_closure_sees_all_groups():
    batches = models.minibatches(6)
    outcomes = []
    for by_closure in (False, True):
        torch.manual_seed(0)
        model = models.plain()
        late = LatePhase(model, sgd(model), batchnorm() + head(), K=2, phi_options={"weight_decay": 0.01})
        norms = []

        def gradients(x=None, y=None, model=model, late=late, norms=norms):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            parameters = [parameter for group in late.param_groups for parameter in group["params"]]
            assert len(parameters) == len(list(model.parameters()))
            torch.nn.utils.clip_grad_norm_(parameters, 0.1)
            norms.append(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())
            return loss

        for i, (x, y) in enumerate(batches):
            if i == 2:
                late.spawn()
            if by_closure:
                late.step(lambda x=x, y=y: gradients(x, y))
            else:
                gradients(x, y)
                late.step()
        assert max(norms) <= 0.1001
        outcomes.append(late.average())
    assert_same(*outcomes)
