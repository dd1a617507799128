"""Late-phase training against its base, on random images that are already on the device: time, ``step()`` alone, and memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from late_phase.benchmark.workloads import CPU, Sizes, forward_in, precisions, random_minibatches, train, warm
from late_phase.support.timing import EPOCH, measure, peak_bytes, timed


def late_over_base(sizes: Sizes, device: torch.device, K: int) -> dict[str, Any]:
    """Measures late-phase training with K members against its base: in fp32 on a CPU, in bf16 on a device that has it.

    A block has ``sizes.K`` minibatches. A model serves as many blocks as an iteration has, and is then renewed: the place in memory
    can change a model's speed by a percent. With one model for all blocks, this would look like an effect of K. If an iteration is
    longer than a block, only some blocks have a step of θ. The median hardly shows it, but ``ratio_of_totals`` includes it fully.
    """
    minibatches, lifetime = random_minibatches(sizes, device), -(-K // sizes.K)
    how = forward_in("fp32" if device.type == "cpu" else precisions(device)[-1], device)

    def blocks(K: int | None) -> Iterator[float]:
        while True:
            run = partial(train, *warm(sizes, device, K, minibatches, how=how), minibatches, how=how)
            for _ in range(lifetime):
                yield timed(run, device, sizes.K * sizes.batch)

    pairs = lifetime * -(-sizes.pairs // lifetime)
    record = measure(f"late_over_base_k{K}", 1.0, blocks(K).__next__, blocks(None).__next__, pairs, noisy=True)
    return record | {"x": K}


def step_microseconds(sizes: Sizes, device: torch.device, steps: int = 400) -> dict[str, float]:
    """Measures the mean time of ``step()`` alone, with given gradients.

    It shows what the late phase adds to a minibatch or saves, without the noise of the forward and backward passes.
    """

    def stepper(K: int | None) -> Callable[[], float]:
        model, optimizer = warm(sizes, device, K, random_minibatches(sizes, device))

        def step() -> float:
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 1e-6)
            return timed(optimizer.step, device, EPOCH) * 1e6

        return step

    names = {"base": None, "K=1": 1, f"K={sizes.K}": sizes.K, f"K={5 * sizes.K}": 5 * sizes.K}
    steppers = {name: stepper(K) for name, K in names.items()}
    times = [{name: step() for name, step in steppers.items()} for _ in range(steps)]
    return {name: statistics.mean(row[name] for row in times) for name in names}


def late_bytes_over_base(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Measures the peak memory of a late-phase iteration in excess of the optimizer alone, divided by the members' memory.

    Without θ's gradient it is a little below 1, as the base also has one of the members' optimizer states.
    """
    device = device if device.type == "cuda" else CPU
    minibatches = random_minibatches(sizes, device)

    def run(K: int | None) -> tuple[nn.Module, torch.optim.Optimizer]:
        model, optimizer = warm(sizes, device, K, minibatches)
        train(model, optimizer, minibatches)
        return model, optimizer

    base, _ = peak_bytes(lambda: run(None), device)
    late, (model, optimizer) = peak_bytes(lambda: run(sizes.K), device)
    phi = [parameter for name, parameter in model.named_parameters() if name in optimizer.members]
    state = sum(value.nbytes for p in phi for value in optimizer.state[p].values() if isinstance(value, Tensor))
    members = sizes.K * state + sum(values.nbytes for values in optimizer.members.values())  # with running statistics
    gradient = sum(p.nbytes for p in model.parameters()) - sum(p.nbytes for p in phi)
    return {
        "late_bytes_over_base": (late - base) / members,
        "late_bytes_over_base_less_theta_gradient": (late - base - gradient) / members,
        "bytes": {"late": late, "base": base, "members": members, "theta_gradient": gradient},
    }
