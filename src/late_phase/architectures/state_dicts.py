"""Finds an architecture's weights in a file's content: in nested dicts, under a prefix, or with the names that wrappers make."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts that torch's wrappers add to the names of wrapped modules, at any depth."""

PREFERRED = ("", "state_dict", "model_state_dict", "model")
"""Keys whose weights are preferred if a file has several sets of weights, such as an average beside the model."""

DEPTH = 6
"""How deep weights and states of optimizers may be nested in dicts or lists."""


@dataclass(frozen=True)
class Found:
    """Weights in a file.

    Attributes:
        place: keys that lead to the weights, joined by dots.
        prefix: prefix before the architecture's own names.
        state: name without the prefix -> tensor.
        others: number of tensors in the same place without the prefix.
        matches: number of the architecture's names that the weights include.
    """

    place: str
    prefix: str
    state: dict[str, Tensor]
    others: int
    matches: int

    def told(self) -> str:
        """Returns where the weights are, for a message. Empty if they are where one expects them."""
        parts = [f"from {self.place!r}"] if self.place else []
        parts += [f"without the prefix {self.prefix!r}"] if self.prefix else []
        parts += [f"without {self.others} other tensors"] if self.others else []
        return ", ".join(parts)


def find_weights(content: Any, names: Sequence[str]) -> list[Found]:
    """Returns the weights in ``content`` that match an architecture best. There are several only if none is preferred.

    Args:
        names: names of the architecture's tensors.
    """
    found = list(_search(content, list(names), "", DEPTH))
    best = max((some.matches for some in found), default=0)
    found = [some for some in found if some.matches == best] if best else found[:1]
    places = [place for place in PREFERRED if place in {some.place for some in found}]
    return [some for some in found if not places or some.place == places[0]]


def unfinished(content: Any, depth: int = DEPTH) -> str | None:
    """Returns why the weights in ``content`` are not the result of finished training, or None if nothing shows that.

    This also searches lists, because Lightning stores the states of optimizers in a list.
    """
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    if not isinstance(content, dict) or depth < 0:
        return None
    if {"epoch", "late", "tally"} <= content.keys():
        return "the checkpoint of a run, from which training goes on"
    if {"K", "phi", "members"} <= content.keys() and content["members"] is not None and content["K"] > 1:
        return "a checkpoint of late-phase training, whose model is only one of the members"
    groups = content.get("param_groups")
    if isinstance(groups, list) and any(isinstance(group, dict) and group.get("train_mode") is True for group in groups):
        return "a checkpoint of a schedule-free optimizer in train mode"
    return next((why for value in content.values() if (why := unfinished(value, depth - 1))), None)


def _search(content: Any, names: list[str], place: str, depth: int) -> Iterator[Found]:
    if not isinstance(content, dict):
        return
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    if tensors := {WRAPPERS.sub("", key): value for key, value in named.items() if isinstance(value, Tensor)}:
        yield from _under_prefixes(tensors, names, place)
    if depth:
        for key, value in named.items():
            yield from _search(value, names, f"{place}.{key}" if place else key, depth - 1)


def _under_prefixes(tensors: dict[str, Tensor], names: list[str], place: str) -> Iterator[Found]:
    """Yields the tensors under each prefix that has most of the architecture's names. No prefix wins a tie."""
    endings = {name for name in names if not name.endswith("num_batches_tracked")}
    counts = {"": 0}
    for key in tensors:
        parts = key.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in endings:
                prefix = "".join(f"{part}." for part in parts[:start])
                counts[prefix] = counts.get(prefix, 0) + 1
    best = max(counts.values())
    if best < len(endings) / 2:  # another architecture, in which the names of some part may match by chance
        counts = {"": best}
    for prefix in [""] if counts[""] == best else [prefix for prefix, count in counts.items() if count == best]:
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        yield Found(place, prefix, state, len(tensors) - len(state), best)
