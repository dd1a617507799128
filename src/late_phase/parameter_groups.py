"""An optimizer's parameter groups as θ and each member see them, with φ's own options and each owner's entries."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

THETA = -1
"""The owner of the base weights. The other owners are the members, by index."""

LR_BOUNDS = ("initial_lr", "max_lr", "min_lr", "swa_lr")
"""Learning rates that torch's schedulers write into a parameter group, and from which they compute the current one."""

Group = dict[str, Any]


class ParameterGroups:
    """Shows an optimizer the parameters of one owner at a time: the base weights θ, or φ of one member.

    A single optimizer thus acts like K + 1 optimizers, one for θ and one for each member. If a step changes an entry of a parameter
    group, such as a count of steps, the new value belongs to the owner that made the step.

    Args:
        optimizer: with ``options``, its groups are split into base and late-phase weights. Late-phase weights come last.
        phi: the late-phase weights.
        options: options of the optimizer that φ gets at :meth:`spawn`. A group keeps its own value of each option that its entry
            ``fixed`` names. ``lr`` is in φ's groups from the beginning, because schedulers read it when they are built. Until
            :meth:`spawn` φ still moves with the learning rate of the base weights.

    Raises:
        ValueError: an option is unknown, or the optimizer already has a scheduler.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, phi: Collection[nn.Parameter], options: dict[str, Any]) -> None:
        self.optimizer = optimizer
        # For each of φ's groups: its options, the index of the base weights' group that it was split from, and the ratio of the two
        # learning rates. The keys are indices, because Optimizer.load_state_dict makes new groups.
        self._options: dict[int, dict[str, Any]] = {}
        self._base: dict[int, int] = {}
        self._lr_ratio: dict[int, float] = {}
        if options:
            self._split(phi, options)
        self._shares = [(_share(group, phi, False), _share(group, phi, True)) for group in optimizer.param_groups]
        self._sizes = [len(group["params"]) for group in optimizer.param_groups]
        self._kept: dict[int, list[Group]] = {}  # owner -> for each group, the entries that the owner's steps have changed
        self._outer: dict[tuple[int, str], Any] = {}  # (index of a group, changed entry) -> its value in the optimizer's own group
        self._all: list[Group] | None = None  # all groups, while the optimizer is shown other ones
        self._checks_lr = True

    def parameters(self, owner: int) -> list[nn.Parameter]:
        """Returns the base weights for ``THETA``, and φ for any member."""
        return [parameter for share in self._shares for parameter in share[owner != THETA]["params"]]

    def spawn(self) -> None:
        """Gives φ its options."""
        for index, options in self._options.items():
            group = self.optimizer.param_groups[index]
            group.update({key: value for key, value in options.items() if key != "lr"})
            momentum = options.get("momentum", options.get("betas", [None])[0])
            if momentum is not None and "max_momentum" in group:  # a scheduler cycles the momentum between these bounds
                group["max_momentum"] = group["base_momentum"] = momentum
            if self._adopt_lr_bounds(index) and "max_lr" in group:
                group["lr"] = group["lr"] * self._lr_ratio[index]

    @contextmanager
    def before_spawn(self) -> Iterator[None]:
        """Gives φ the learning rate of the base weights for the duration of a block."""
        groups = self.optimizer.param_groups
        lrs = {index: {"lr": groups[self._base[index]]["lr"]} for index in self._lr_ratio}
        if not lrs:
            yield
            return
        with self._showing({i: group | lrs.get(i, {}) for i, group in enumerate(groups) if group["params"]}) as changes:
            yield
        for index, changed in changes.items():
            groups[index].update(changed)

    @contextmanager
    def of(self, owner: int) -> Iterator[None]:
        """Shows the optimizer only the parameters and entries of ``owner`` for the duration of a block, after :meth:`spawn`.

        Raises:
            RuntimeError: the parameter groups are not those of the beginning, or φ has lost its options.
        """
        groups = self.optimizer.param_groups
        if [len(group["params"]) for group in groups] != self._sizes:
            raise RuntimeError("the optimizer's parameter groups have changed since LatePhase was built: build LatePhase last.")
        for index in self._options:
            self._refuse_lost_options(index)
        # A value that the user or a scheduler has set in a group since then applies to all owners.
        for index, key in [place for place, value in self._outer.items() if not _same(groups[place[0]].get(place[1]), value)]:
            del self._outer[index, key]
            for kept in self._kept.values():
                kept[index].pop(key, None)
        own = self._kept.setdefault(owner, [{} for _ in groups])
        shares = [share[owner != THETA] for share in self._shares]
        views = {i: group | own[i] | shares[i] for i, group in enumerate(groups) if shares[i]["params"]}
        with self._showing(views) as changes:
            yield
        for index, changed in changes.items():
            own[index] |= changed
            self._outer.update({(index, key): groups[index].get(key) for key in changed})
        self._checks_lr = False

    def state_dict(self) -> dict[int, list[Group]]:
        """Returns the entries that each owner's steps have changed."""
        return {owner: [dict(entries) for entries in kept] for owner, kept in self._kept.items()}

    def load_state_dict(self, state: dict[int, list[Group]]) -> None:
        """Restores :meth:`state_dict`. Load the optimizer's own state first."""
        groups = self.optimizer.param_groups
        self._kept = {owner: [dict(entries) for entries in kept] for owner, kept in state.items()}
        places = {(index, key) for kept in self._kept.values() for index, own in enumerate(kept) for key in own}
        self._outer = {(index, key): groups[index].get(key) for index, key in places}
        self._checks_lr = not state

    @contextmanager
    def _showing(self, views: dict[int, Group]) -> Iterator[dict[int, Group]]:
        """Shows ``views`` (index -> group) to the optimizer for a block; yields a dict that later holds the block's changes."""
        before = {index: dict(view) for index, view in views.items()}
        groups, changes = self.optimizer.param_groups, {}
        self._all, self.optimizer.param_groups = groups, list(views.values())
        try:
            yield changes
        finally:
            self._all, self.optimizer.param_groups = None, groups
        for index, view in views.items():
            changes[index] = {key: value for key, value in view.items() if not _same(value, before[index].get(key))}

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Shows all groups again for the duration of a block within :meth:`of` or :meth:`before_spawn`."""
        shown = self.optimizer.param_groups
        self.optimizer.param_groups = shown if self._all is None else self._all
        try:
            yield
        finally:
            self.optimizer.param_groups = shown

    def _split(self, phi: Collection[nn.Parameter], options: dict[str, Any]) -> None:
        """Moves φ into parameter groups of its own."""
        groups = self.optimizer.param_groups
        for key in options:
            if key not in self.optimizer.defaults or key == "params":
                raise ValueError(
                    f"phi_options has {key!r}, but {type(self.optimizer).__name__} has no such option: choose from its arguments."
                )
        if hasattr(self.optimizer.step, "_wrapped_by_lr_sched"):
            raise ValueError(
                "phi_options adds parameter groups, but the optimizer has a scheduler: build LatePhase before the scheduler."
            )
        base: list[Group] = []
        late: list[tuple[Group, dict[str, Any], int | None]] = []
        for group in groups:
            own = {key: value for key, value in options.items() if key not in group.get("fixed", ())}
            rest, selected = _share(group, phi, False), _share(group, phi, True)
            # A group without base weights stays only if φ needs the group's learning rate until T0.
            stays = bool(rest["params"]) or "lr" in own
            if selected["params"]:
                late.append((copy.deepcopy(_entries(group)) | selected, own, len(base) if stays else None))
            if stays:
                base.append(group | rest)
        groups[:] = base + [group for group, _, _ in late]
        for index, (group, own, origin) in enumerate(late, len(base)):
            self._options[index] = own
            if origin is not None:
                self._base[index] = origin
            if "lr" in own:
                if not float(group["lr"]) > 0:
                    raise ValueError(
                        f"phi_options has lr={own['lr']}, but the optimizer's own lr is {group['lr']}: give it an lr above 0."
                    )
                self._lr_ratio[index] = float(own["lr"]) / float(group["lr"])
                if "initial_lr" in group:  # left by the scheduler of an earlier run, whose optimizer state was loaded
                    group["initial_lr"] = group["initial_lr"] * self._lr_ratio[index]
                group["lr"] = torch.full_like(group["lr"], own["lr"]) if isinstance(group["lr"], Tensor) else own["lr"]

    def _adopt_lr_bounds(self, index: int) -> bool:
        """Scales the scheduler's bounds that φ shares with the base weights, and returns whether there were any."""
        if index not in self._lr_ratio:
            return False
        group, base = (self.optimizer.param_groups[i] for i in (index, self._base[index]))
        common = [key for key in LR_BOUNDS if key in group and float(group[key]) == float(base[key])]
        group.update({key: group[key] * self._lr_ratio[index] for key in common})
        return bool(common)

    def _refuse_lost_options(self, index: int) -> None:
        """Refuses a group of φ whose options were overwritten, as by a scheduler or a loop that sets all groups alike."""
        self._adopt_lr_bounds(index)
        if index not in self._base:
            return  # there are no base weights to compare with
        group, base = (self.optimizer.param_groups[i] for i in (index, self._base[index]))
        for key, value in self._options[index].items():
            if key == "lr":  # a scheduler may legitimately end with one minimum for both
                checked = self._lr_ratio[index] != 1 and (self._checks_lr or "initial_lr" not in group)
                lost = checked and float(group[key]) == float(base[key]) != 0
            else:
                lost = not _same(group[key], value) and _same(group[key], base[key])
            if lost:
                raise RuntimeError(
                    f"phi_options has {key}={value}, but {key}={group[key]} was set for late-phase and base weights alike: leave "
                    "it out of phi_options, or set it for each of late.param_groups; the last ones hold the late-phase weights."
                )


def _entries(group: Group) -> Group:
    """Returns a group's entries without its parameters."""
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def _share(group: Group, phi: Collection[nn.Parameter], late: bool) -> Group:
    """Returns a group's late-phase weights, or its base weights if ``late`` is false, with their names if the group has names."""
    places = [i for i, parameter in enumerate(group["params"]) if (parameter in phi) == late]
    lists: Sequence[str] = [key for key in ("params", "param_names") if key in group]
    return {key: [group[key][i] for i in places] for key in lists}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b
    return a is b or a == b
