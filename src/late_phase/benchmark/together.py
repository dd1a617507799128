"""Members and processes that work together: members in one pass against one after the other, two processes against one."""

from __future__ import annotations

import copy
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from late_phase import LatePhase, Selection, architectures, batchnorm, head
from late_phase.benchmark.workloads import CPU, SGD, Sizes, build, memory_format
from late_phase.evaluation.predict import EVALUATION_BATCH_SIZE
from late_phase.layers.rank1 import adapters, parametrize_rank1
from late_phase.layers.synchronized_batchnorm import SynchronizedBatchNorm
from late_phase.support.devices import cores
from late_phase.support.timing import measure, timed
from late_phase.weights import load

INPUTS = 27
"""Columns of a table, one-hot encoded: those of the diamonds."""


def loss(model: Callable[..., Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), labels)


def parallel_over_sequential(name: str, K: int, batch: int, bar: float | None, device: torch.device, pairs: int) -> dict[str, Any]:
    """Measures an iteration of K members in one pass against the same members one after the other.

    Args:
        name: ``lenet`` with late-phase BatchNorm and head, or ``mlp`` with late-phase adapters.
    """
    shape, model = (3, 32, 32), architectures.build(name, 3, 10) if name == "lenet" else None
    select: Selection = batchnorm() + head()
    if model is None:
        shape, model = (INPUTS,), architectures.build(name, INPUTS, 10, depth=5, width=96)
        parametrize_rank1(model, spread=0.1)
        select = adapters()
    model = model.to(device)
    minibatches = [(torch.randn(batch, *shape).to(device), torch.randint(10, (batch,)).to(device)) for _ in range(K)]

    def spawned() -> LatePhase:
        own = copy.deepcopy(model)
        late = LatePhase(own, torch.optim.SGD(own.parameters(), fused=True, **SGD), select, K)
        late.spawn()
        return late

    one, other = spawned(), spawned()

    def at_once() -> None:
        for _ in one.parallel(loss, minibatches):
            one.step()

    def in_turn() -> None:
        for minibatch in minibatches:
            loss(other.model, *minibatch).backward()
            other.step()

    blocks = [lambda run=run: timed(run, device, K * batch) for run in (at_once, in_turn)]
    return measure(f"parallel_over_sequential_{name}_k{K}_batch{batch}", bar, *blocks, pairs)


def evaluated_at_once(name: str, K: int, whole: bool, device: torch.device, pairs: int) -> dict[str, Any]:
    """Measures the logits of K models for a minibatch of evaluation, in one pass against one model after the other.

    Args:
        name: ``lenet`` or ``mlp``.
        whole: whether the models differ in all weights, as draws around a model do; else in BatchNorm and head, as members.
    """
    lenet = name == "lenet"
    model = architectures.build(name, 3, 10) if lenet else architectures.build(name, INPUTS, 10, depth=5, width=96)
    model = model.to(device).eval()
    names = {own for own, _ in model.named_parameters()} if whole else set((batchnorm() + head()).names(model))
    values = {own: torch.stack([value.detach()] * K) for own, value in model.named_parameters() if own in names}
    inputs = torch.randn(EVALUATION_BATCH_SIZE, *((3, 32, 32) if lenet else (INPUTS,))).to(device)
    together = vmap(lambda own: functional_call(model, own, (inputs,)))

    @torch.no_grad()
    def at_once() -> None:
        together(values)

    @torch.no_grad()
    def in_turn() -> None:
        for k in range(K):
            load(model, {own: value[k] for own, value in values.items()})(inputs)

    blocks = [lambda run=run: timed(run, device, K * len(inputs)) for run in (at_once, in_turn)]
    return measure(f"{'draws' if whole else 'members'}_evaluated_at_once_{name}_k{K}", None, *blocks, pairs)


def two_over_one(divide: str, sizes: Sizes) -> dict[str, Any]:
    """Measures late-phase training of the WRN in two processes against one process, with the same cores, on the CPU.

    The record also has the bytes of gradients that a process exchanges for a minibatch, as a multiple of all gradients. Plain data
    parallelism exchanges all of them: 1.
    """
    with workers(2, divide, sizes) as two, workers(1, divide, sizes) as one:
        record = measure(f"two_processes_over_one_{divide}", None, two.block, one.block, sizes.pairs)
        return record | {"exchanged": two.exchanged()}


class Workers:
    """Processes that train a block when they are told to."""

    def __init__(self, pipes: list[Connection], amount: int) -> None:
        self._pipes, self._amount = pipes, amount

    def block(self) -> float:
        return timed(lambda: self._ask("train"), CPU, self._amount)

    def exchanged(self) -> float:
        return self._ask("exchanged")[0]

    def _ask(self, what: str) -> list[Any]:
        for pipe in self._pipes:
            pipe.send(what)
        return [pipe.recv() for pipe in self._pipes]


@contextmanager
def workers(count: int, divide: str, sizes: Sizes) -> Iterator[Workers]:
    """Starts processes that share the cores, for the duration of a block."""
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads
    with tempfile.TemporaryDirectory() as folder:
        pairs = [context.Pipe() for _ in range(count)]
        started = []
        for rank, (_, other) in enumerate(pairs):
            arguments = (rank, count, divide, sizes, Path(folder) / "meeting", other)
            started.append(context.Process(target=work, args=arguments, daemon=True))
            started[-1].start()
        try:
            yield Workers([own for own, _ in pairs], sizes.K * sizes.batch)
        finally:
            for process in started:
                process.terminate()
                process.join()


def work(rank: int, size: int, divide: str, sizes: Sizes, meeting: Path, pipe: Connection) -> None:
    """A process of :func:`workers`. A block is an iteration."""
    torch.set_num_threads(max(1, cores() // size))
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    model: nn.Module = build("wrn", sizes, CPU).to(memory_format=memory_format("wrn"))
    optimizer = torch.optim.SGD(model.parameters(), fused=True, **SGD)
    late = LatePhase(model, optimizer, batchnorm() + head(), sizes.K, process_group=dist.group.WORLD, divide=divide)
    late.spawn()
    part = slice(rank, None, size) if late.divides_minibatches else slice(None)
    inputs = torch.randn(sizes.batch, 3, 32, 32).to(memory_format=memory_format("wrn"))[part]
    labels, iterations = torch.randint(10, (sizes.batch,))[part], 0
    while True:
        if pipe.recv() == "exchanged":
            whole = sum(parameter.nbytes for parameter in model.parameters())
            pipe.send(late.exchanged / (iterations * sizes.K) / whole)
            continue
        iterations += 1
        for _ in range(sizes.K):
            if late.mine and late.divides_minibatches:
                with SynchronizedBatchNorm():
                    loss(model, inputs, labels).backward()
                late.step()
            elif late.mine:
                loss(model, inputs, labels).backward()
                late.step()
            else:
                late.skip()
        pipe.send(None)
