"""Paths in configs: finds their keys, and expands ``~`` in their values."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, get_type_hints

from late_phase.config.choices import CHOICES
from late_phase.support.errors import UserError
from late_phase.support.paths import expanded


def path_keys(schema: type, prefix: str = "") -> set[str]:
    """Returns the keys of all paths in configs of this type, for every choice in every group."""
    keys, types = set(), get_type_hints(schema)
    for f in fields(schema):
        if is_dataclass(types[f.name]):
            choices = CHOICES.get(f"{prefix}{f.name}", {}).values()
            for kind in {types[f.name], *(choice.config for choice in choices)}:
                keys |= path_keys(kind, f"{prefix}{f.name}.")
        elif "path" in f.metadata:
            keys.add(f"{prefix}{f.name}")
    return keys


def expand_paths(config: Any, prefix: str = "") -> Any:
    """Returns the config with ``~`` and ``~user`` in its paths replaced by home folders.

    Raises:
        UserError: a path is empty.
    """
    changes = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            changes[f.name] = expand_paths(value, f"{prefix}{f.name}.")
        elif "path" in f.metadata and value is not None:
            if not value:
                raise UserError(f"{prefix}{f.name} is empty: give a path, such as . for the current folder.")
            changes[f.name] = expanded(value)
    return replace(config, **changes)
