"""Several processes that train one model: what they exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from late_phase.checks import MEMBERS, MINIBATCHES
from late_phase.members import Phi
from late_phase.running_statistics import running_statistics


class Processes:
    """The processes of a group, and how they divide the late phase among them.

    Args:
        group: the process group of torch.
        divide: ``minibatches``: each process has a part of every minibatch. ``members``: from T0 on each process has whole
            minibatches, those of its own members.

    Attributes:
        rank: index of this process in the group.
        size: number of processes.
        exchanged: bytes of gradients that this process has given to sums over the processes.
    """

    def __init__(self, group: dist.ProcessGroup, divide: str = MINIBATCHES) -> None:
        self.group = group
        self.divide = divide
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.exchanged = 0
        self._compared = False

    def begin(self, model: nn.Module, phi: Phi, K: int, pull: float) -> None:
        """Gives the model the weights of the first process.

        Raises:
            ValueError: the members can't be divided among the processes.
        """
        if self.divide == MEMBERS:
            if self.size > K:
                raise ValueError(
                    f"K={K} members can't be divided among {self.size} processes: choose divide=minibatches, or a larger K."
                )
            if pull > 0:
                raise ValueError(f"pull={pull} needs all members in each process: choose divide=minibatches, or pull=0.")
            own = set(phi.live())
            if shared := [name for name in running_statistics(model) if name not in own]:
                raise ValueError(
                    f"the members share running statistics such as {shared[0]}, so they can't be divided: "
                    "choose divide=minibatches."
                )
        with torch.no_grad():
            self.send([*model.parameters(), *model.buffers()], 0)

    def compare_buffers(self, model: nn.Module, phi: Phi) -> None:
        """Refuses members that change buffers which they share, after their first iteration.

        Raises:
            RuntimeError: a buffer differs among the processes.
        """
        if self._compared or self.divide != MEMBERS:
            return
        self._compared = True
        own = set(phi.live())
        shared = {name: buffer for name, buffer in model.named_buffers() if name not in own}
        if not shared:
            return
        of_first = [buffer.clone() for buffer in shared.values()]
        self.send(of_first, 0)
        pairs = zip(of_first, shared.values(), strict=True)
        same = [torch.allclose(*pair, rtol=0, atol=0, equal_nan=True) for pair in pairs]
        differ = torch.tensor([not equal for equal in same], dtype=torch.int32, device=of_first[0].device)
        dist.all_reduce(differ, dist.ReduceOp.MAX, group=self.group)
        if changed := [name for name, different in zip(shared, differ.tolist(), strict=True) if different]:
            raise RuntimeError(
                f"the members share buffers that they change, such as {changed[0]}, so they can't be divided: choose "
                "divide=minibatches."
            )

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replaces the parameters' gradients by their means over the processes."""
        means = self.sums([parameter.grad for parameter in parameters], parameters, 1 / self.size)
        for parameter, mean in zip(parameters, means, strict=True):
            parameter.grad = mean

    @property
    def share(self) -> float:
        """What part of a minibatch this process has after T0."""
        return 1.0 if self.divide == MEMBERS else 1 / self.size

    def owner(self, k: int) -> int:
        """Returns the process whose copy of member k is the valid one."""
        return k % self.size if self.divide == MEMBERS else 0

    def sums(
        self, gradients: Sequence[Tensor | None], parameters: Sequence[nn.Parameter], scale: float = 1.0
    ) -> list[Tensor | None]:
        """Returns each parameter's gradient summed over the processes, times ``scale``. It is None if no process has one.

        Parameters of one data type and device share a single collective.

        Raises:
            RuntimeError: a gradient is sparse.
        """
        if any(gradient is not None and gradient.is_sparse for gradient in gradients):
            raise RuntimeError("sparse gradients can't be exchanged by processes: build the embedding with sparse=False.")
        summed: list[Tensor | None] = [None] * len(parameters)
        kinds: dict[tuple[torch.dtype, torch.device], list[int]] = {}
        for i, parameter in enumerate(parameters):
            kinds.setdefault((parameter.dtype, parameter.device), []).append(i)
        for (dtype, device), which in kinds.items():
            present = torch.tensor([gradients[i] is not None for i in which], dtype=dtype, device=device)
            own = [
                parameters[i].detach().new_zeros(()).expand_as(parameters[i]) if gradients[i] is None else gradients[i]
                for i in which
            ]
            flat = torch.cat([present, *(gradient.flatten() for gradient in own)])
            self.exchanged += flat.nbytes
            dist.all_reduce(flat, group=self.group)
            # The first entries count the processes that have the gradient. Reading them waits for the device.
            found = [1] * len(which) if all(gradients[i] is not None for i in which) else flat[: len(which)].tolist()
            parts = flat[len(which) :].mul_(scale).split([parameters[i].numel() for i in which])
            for i, count, part in zip(which, found, parts, strict=True):
                summed[i] = part.view_as(parameters[i]) if count else None
        return summed

    def send(self, tensors: Iterable[Tensor], source: int) -> None:
        """Overwrites tensors with those of the process ``source``."""
        for tensor in tensors:
            sent = tensor.contiguous()
            dist.broadcast(sent, group_src=source, group=self.group)
            if sent is not tensor:
                tensor.copy_(sent)

    def send_states(self, value: Any, source: int, device: torch.device) -> Any:
        """Returns the ``value`` of the process ``source``, a nest of dicts, lists and tensors.

        Its tensors are on the CPU if they are there in the process, else on ``device``.
        """
        box = [_mapped(value, lambda tensor: (tensor.device.type != "cpu", tensor.cpu()))]
        dist.broadcast_object_list(box, group_src=source, group=self.group)
        return _mapped(box[0], lambda pair: pair[1].to(device) if pair[0] else pair[1], leaf=tuple)


def _mapped(value: Any, change: Callable[[Any], Any], leaf: type = Tensor) -> Any:
    """Returns a nest of dicts and lists whose leaves of type ``leaf`` are changed."""
    if isinstance(value, dict):
        return {key: _mapped(entry, change, leaf) for key, entry in value.items()}
    if isinstance(value, list):
        return [_mapped(entry, change, leaf) for entry in value]
    return change(value) if isinstance(value, leaf) else value
