"""Lookahead against a literal loop, and with one member against plain training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from runs import TINY, run_until
from safetensors.torch import load_file
from torch import Tensor

from late_phase.config.training import TrainConfig
from late_phase.methods.lookahead import set_weights
from late_phase.training import setup
from late_phase.training.loop import run

PLAIN = ("late_phase=none", "late_phase.K=1", "late_phase.T0=null")
CPU = torch.device("cpu")


def literal(config: TrainConfig, start: int, steps: int, alpha: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Algorithm 1 of Zhang et al. around torch's SGD, from the first step of epoch ``start`` on; returns fast and slow weights."""
    torch.manual_seed(config.seed)
    parts = setup.build(config, CPU)
    model, slow, taken = parts.trained.late.model, {}, 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    for epoch in range(config.epochs):
        if epoch == start:
            slow = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        for inputs, labels in parts.batches.epoch(epoch):
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            taken += epoch >= start
            if taken and taken % steps == 0:
                for name, parameter in model.named_parameters():
                    slow[name] = slow[name].lerp(parameter.detach(), alpha)  # slow + alpha (fast - slow)
                    parameter.data.copy_(slow[name])
    return dict(model.state_dict()), slow


@pytest.mark.parametrize(
    "late_phase",
    [PLAIN, ("late_phase=batchnorm", "late_phase.K=1"), ("late_phase=full", "late_phase.K=1", "late_phase.T0=0")],
    ids=str,
)
@pytest.mark.parametrize(("start", "steps", "alpha"), [(0, 3, 0.5), (2, 5, 0.8)])
def test_a_run_follows_the_literal_loop(late_phase, start, steps, alpha, tmp_path, composed):
    """To the bit, with one member, too. 32 steps: the fast weights have gone on since they last returned."""
    keys = (f"averaging.start={start}", f"averaging.steps={steps}", f"averaging.alpha={alpha}", "schedule=constant")
    choices = [late_phase[0], "averaging=lookahead", "schedule=constant"]
    config = composed(*choices, *TINY, *keys[:3], *late_phase[1:])
    run(config, tmp_path / "a" / "b" / "seed=0")
    fast, slow = literal(config, start, steps, alpha)
    exported, average = (load_file(tmp_path / "a" / "b" / "seed=0" / place / "model.safetensors") for place in ("", "lookahead"))
    for name, value in slow.items():
        assert torch.equal(average[name], value) and torch.equal(exported[name], fast[name]), name
    assert not torch.allclose(fast["conv1.weight"], slow["conv1.weight"])


def test_members_return_to_their_own_slow_weights_at_the_end_of_iterations(tmp_path, composed):
    """The late phase begins with the 9th minibatch. After two iterations of 3 minibatches the weights return."""
    directory = tmp_path / "a" / "b" / "seed=0"
    options = ("averaging=lookahead", *TINY, "averaging.start=1", "averaging.steps=2", "late_phase.sigma0=0.2")
    run_until(8 + 5, composed(*options), directory)
    within = torch.load(directory / "checkpoint.pt", weights_only=True)
    run_until(1, composed(*options), directory)
    after = torch.load(directory / "checkpoint.pt", weights_only=True)
    assert [saved["averaging"]["count"] for saved in (within, after)] == [1, 2]
    assert [saved["averaging"]["steps"] for saved in (within, after)] == [1, 2]
    for name, slow in after["averaging"]["mean"].items():
        if name in after["late"]["phi"]:
            assert torch.equal(after["late"]["members"][name], slow) and not torch.equal(slow[0], slow[1])
        else:
            assert torch.equal(after["model"][name], slow) and not torch.equal(within["averaging"]["mean"][name], slow)


def test_slow_weights_of_members_have_their_noise(composed):
    """Else the first return would take a part of σ0 away."""
    parts = setup.build(composed("averaging=lookahead", *TINY, "late_phase.sigma0=0.2"), CPU)
    method, late = parts.methods["averaging"], parts.trained.late
    method.before_epoch(parts.trained, 0)
    slow = {name: value.clone() for name, value in method.average.mean.items()}
    fast = {name: torch.rand_like(value[:1]).expand_as(value).clone() for name, value in late.weights().items() if name in late.phi}
    set_weights(late, late.weights() | fast)
    method.after_epoch(parts.trained, 0)
    late.spawn()
    for _ in range(2):  # the second one changes nothing
        method.before_epoch(parts.trained, 1)
        for name, value in method.average.mean.items():
            noise = late.members[name] - fast[name] if name in late.phi else 0
            assert torch.equal(value, slow[name] + noise), name
    assert not torch.equal(*method.average.mean["bn1.weight"][:2])


def test_weights_are_set_as_they_are_read(composed):
    torch.manual_seed(0)
    late = setup.build(composed(*TINY, "late_phase.sigma0=0.2"), CPU).trained.late
    for spawned in (False, True):
        if spawned:
            late.spawn()
        entered = late.entered
        weights = {name: torch.rand_like(value[:1]).expand_as(value).clone() for name, value in late.weights().items()}
        if spawned:
            weights |= {name: torch.rand_like(late.weights()[name]) for name in late.phi}
        weights |= {name: torch.rand_like(value) for name, value in late.weights().items() if name not in late.phi}
        set_weights(late, weights)
        assert all(torch.equal(value, weights[name]) for name, value in late.weights().items()) and late.entered == entered
