"""The K members of a late-phase ensemble: keeps their weights and optimizer states, and swaps them into and out of the model."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from late_phase.running_statistics import fold_batchnorm, normalization_layers


class Phi:
    """φ in a live model: the late-phase weights, and the running statistics of normalization layers that have late-phase weights.

    Args:
        model: the plain model.
        names: full names of the late-phase weights.
    """

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        parameters = dict(model.named_parameters())
        self.model = model
        self.parameters = {name: parameters[name] for name in names}

    def normalization_layers(self) -> dict[str, nn.Module]:
        phi = set(self.parameters.values())
        layers = normalization_layers(self.model).items()
        return {name: layer for name, layer in layers if any(p in phi for p in layer.parameters(recurse=False))}

    def live(self) -> dict[str, Tensor]:
        """Returns the model's own tensors of φ: full name -> late-phase weight or running statistic."""
        live: dict[str, Tensor] = dict(self.parameters)
        for prefix, layer in self.normalization_layers().items():
            live.update((f"{prefix}.{key}" if prefix else key, value) for key, value in layer.named_buffers(recurse=False))
        return live


class Members:
    """Φ stacked as ``[K, ...]``, the K optimizer states, and the index of the member that is in the live model.

    The live model always has the latest values of the member that it holds. ``store()`` copies them to ``values``. Copying a member
    in or out takes a handful of fused operations, whatever the number of layers.

    Args:
        values: full name -> ``[K, ...]`` for each tensor in ``phi.live()``.
        states: for each member, parameter -> the optimizer's state of that parameter.
        entered: index of the member that the optimizer and the live model hold.
    """

    def __init__(
        self,
        phi: Phi,
        optimizer: torch.optim.Optimizer,
        values: dict[str, Tensor],
        states: list[dict[nn.Parameter, Any]],
        entered: int = 0,
    ) -> None:
        self.phi = phi
        self.optimizer = optimizer
        self.values = values
        self.states = states
        self.entered = entered
        self._bind()

    @classmethod
    def spawn(
        cls,
        phi: Phi,
        optimizer: torch.optim.Optimizer,
        K: int,
        sigma0: float,
        generator: torch.Generator | None,
        copy_state: bool,
    ) -> Members:
        """Makes K members around φ_0 (Eq. 2); see ``LatePhase.spawn``."""
        values = {name: torch.stack([value.detach()] * K) for name, value in phi.live().items()}
        if sigma0 > 0:
            device = generator.device if generator else None
            for name, phi_0 in phi.parameters.items():
                noise = torch.randn(values[name].shape, generator=generator, device=device, dtype=phi_0.dtype)
                values[name] += sigma0 * phi_0.norm() / phi_0.numel() ** 0.5 * noise.to(phi_0.device)
        known = {p: optimizer.state[p] for p in phi.parameters.values() if copy_state and p in optimizer.state}
        # One deepcopy for all of a member's states, because they may share tensors.
        states = [dict(zip(known, copy.deepcopy(list(known.values())), strict=True)) for _ in range(K)]
        members = cls(phi, optimizer, values, states)
        members.load(0)
        return members

    @classmethod
    def restore(
        cls,
        phi: Phi,
        optimizer: torch.optim.Optimizer,
        values: Mapping[str, Tensor],
        states: Sequence[Sequence[dict[str, Any]]],
        optimizer_state: dict[str, Any],
    ) -> Members:
        """Returns saved members. This uses the optimizer to load their states, and leaves the last member's state in it.

        Args:
            values: full name -> ``[K, ...]``.
            states: what :meth:`states_in_order` returned when the members were saved.
            optimizer_state: the optimizer's ``state_dict``, saved together with the members.
        """
        pairs = zip(optimizer_state["param_groups"], optimizer.param_groups, strict=True)
        index = {p: i for saved, group in pairs for i, p in zip(saved["params"], group["params"], strict=True)}
        loaded = []
        for member_state in states:
            own = {index[p]: state for p, state in zip(phi.parameters.values(), member_state, strict=True) if state}
            # Only the optimizer's own load_state_dict knows which state tensors take the parameter's device and data type.
            optimizer.load_state_dict({**optimizer_state, "state": own})
            loaded.append(dict(optimizer.state))
        return cls(phi, optimizer, {name: values[name].to(value) for name, value in phi.live().items()}, loaded)

    def store(self) -> None:
        """Copies the live model to its member, even if ``Module.to`` or ``vector_to_parameters`` has replaced its tensors."""
        if self._present_pointers() != self._pointers:
            self._bind()
        for row, live in zip(self._rows[self.entered], self._live, strict=True):
            torch._foreach_copy_(row, live)
        state = self.optimizer.state  # a defaultdict: looking up a missing parameter would add it
        self.states[self.entered] = {p: state[p] for p in self.phi.parameters.values() if p in state}

    def load(self, k: int) -> None:
        """Copies member k to the live model."""
        self.entered = k
        for row, live in zip(self._rows[k], self._live, strict=True):
            torch._foreach_copy_(live, row)
        torch.clear_autocast_cache()  # otherwise an open autocast block would keep using the previous member's weights
        for parameter in self.phi.parameters.values():
            self.optimizer.state.pop(parameter, None)
        self.optimizer.state.update(self.states[k])

    def enter(self, k: int, pull: float = 0.0) -> None:
        """Swaps the member in the live model for member k.

        Args:
            pull: before member k is copied, φ_k <- φ̄ + (1 - pull) (φ_k - φ̄) for all members, where φ̄ is their mean. Their running
                statistics and optimizer states stay.
        """
        self.store()
        if pull > 0 and self.phi.parameters:
            phi = [self.values[name] for name in self.phi.parameters]
            torch._foreach_lerp_(phi, [values.mean(0, keepdim=True).expand_as(values) for values in phi], pull)
        self.load(k)

    def states_in_order(self) -> list[list[dict[str, Any]]]:
        """Returns, for each member, the optimizer's states of the parameters of φ in order; a missing state is an empty dict."""
        return [[states.get(parameter, {}) for parameter in self.phi.parameters.values()] for states in self.states]

    def averages(self, folded: bool) -> dict[str, Tensor]:
        """Returns the members' averages: full name -> mean over members.

        Args:
            folded: average the outputs of normalization layers instead of their tensors, see
                :func:`late_phase.running_statistics.fold_batchnorm`.

        Raises:
            ValueError: ``folded`` is set, and a layer has no scale and shift of its own.
        """
        averages = {name: _mean(values) for name, values in self.values.items()}
        names = {id(value): name for name, value in self.phi.live().items()}
        done: set[str] = set()
        for prefix, layer in self.phi.normalization_layers().items() if folded else ():
            tensors = {key: getattr(layer, key, None) for key in ("weight", "bias", "running_mean", "running_var")}
            own = {names.get(id(tensor), f"{prefix}.{key}") for key, tensor in tensors.items()}
            if any(tensor is None for tensor in tensors.values()) or own & done:
                raise ValueError(
                    f"running_statistics='folded' needs layers with a scale and a shift of their own, which {prefix} lacks: "
                    "choose mean or recompute."
                )
            done |= own
            values = {key: self.values[names[id(t)]] if id(t) in names else t.detach()[None] for key, t in tensors.items()}
            folded_layer = fold_batchnorm(layer, values)
            averages |= {names.get(id(t), f"{prefix}.{key}"): folded_layer[key] for key, t in tensors.items()}
        return averages

    def _bind(self) -> None:
        """Sorts the live tensors and the members' rows into lists of one data type each, as the fused copies need."""
        live = self.phi.live()
        for name, value in live.items():
            own = self.values[name]
            if value.dtype != own.dtype or value.device != own.device:
                raise RuntimeError(
                    f"{name} was {own.dtype} on {own.device} at spawn() and is now {value.dtype} on {value.device}: "
                    "convert and move the model before spawn()."
                )
        types = sorted({value.dtype for value in live.values()}, key=str)
        names = [[name for name, value in live.items() if value.dtype == dtype] for dtype in types]
        self._live = [[live[name].detach() for name in group] for group in names]
        self._rows = [[[self.values[name][k] for name in group] for group in names] for k in range(len(self.states))]
        places = [(self.phi.model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in live]
        self._places = [(m._parameters if key in m._parameters else m._buffers, key) for m, key in places]
        self._pointers = self._present_pointers()

    def _present_pointers(self) -> list[int]:
        """Returns the memory addresses of the live tensors."""
        return [tensors[key].data_ptr() for tensors, key in self._places]


def _mean(values: Tensor) -> Tensor:
    """Returns the mean over members, or the largest value of a count such as ``num_batches_tracked``."""
    return values.mean(0) if values.is_floating_point() or values.is_complex() else values.amax(0)
