"""How a run computes: in which precision and memory format, with a compiled model or not, with how many members in a pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from late_phase.config.training import TrainConfig
from late_phase.runs.provenance import device_name
from late_phase.support.errors import UserError

Step = TypeVar("Step")


def refuse_tf32(config: TrainConfig, device: torch.device) -> None:
    """Refuses to train in tf32 where there is none.

    Raises:
        UserError: ``compute.precision=tf32`` on another device than an NVIDIA GPU.
    """
    if config.compute.precision == "tf32" and device.type != "cuda":
        raise UserError(f"compute.precision=tf32 needs an NVIDIA GPU, and the run computes on {device}: choose fp32, bf16 or auto.")


class Compiled:
    """A model that ``torch.compile`` makes for one shape of minibatches.

    That is the shape of the largest minibatch so far. Smaller ones, such as the last of an epoch, go through the model as it is,
    because each further shape would have to be compiled, too. A recurrent model is compiled twice: without a hidden state, and with
    one.

    Args:
        mode: torch's mode; ``reduce-overhead`` uses CUDA graphs.
    """

    def __init__(self, model: nn.Module, mode: str | None) -> None:
        self.model = model
        self._compiled = torch.compile(model, mode=mode, dynamic=False)
        self._largest = 0

    def __call__(self, inputs: Tensor, *others: Any) -> Any:
        self._largest = max(self._largest, inputs.numel())
        return (self._compiled if inputs.numel() == self._largest else self.model)(inputs, *others)


def forward_of(model: nn.Module, config: TrainConfig, device: torch.device, processes: int) -> nn.Module | Compiled:
    """Returns the model, or the compiled model if ``compute.compile`` says so.

    ``auto`` compiles on NVIDIA GPUs, unless there are several processes or members in a pass. On a CPU compiling gains nothing.
    """
    chosen = config.compute.compile
    if chosen == "auto":
        chosen = device.type == "cuda" and processes == config.late_phase.parallel_members == 1
    return Compiled(model, chosen if isinstance(chosen, str) else None) if chosen else model


def timed(steps: Iterator[Step], tell: Callable[[float], None]) -> Iterator[Step]:
    """Passes steps on. Tells how many seconds the first two take in excess of the third, which is the time of compiling.

    The second one compiles as well if a hidden state comes in, and records CUDA graphs.
    """
    seconds: list[float] = []
    start = time.monotonic()
    for step in steps:
        seconds.append(time.monotonic() - start)
        if len(seconds) == 3:
            tell(max(0.0, seconds[0] + seconds[1] - 2 * seconds[2]))
        yield step
        start = time.monotonic()


def in_words(config: TrainConfig, device: torch.device, compiled: bool) -> str:
    """Says how a run computes."""
    told = [f"computing on {device_name(device)} in {config.precision_on(device)}"]
    if getattr(config.architecture, "channels_last", False):
        told.append("channels_last")
    if compiled:
        told.append("compiled")
    if config.late_phase.K > 1:
        members = config.late_phase.parallel_members
        told.append(f"{members} member{'s' * (members > 1)} at a time")
    return ", ".join(told)
