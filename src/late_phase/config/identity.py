"""The identity of a run: the part of its config on which the result depends."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from late_phase.config.training import TrainConfig

NOT_IN_IDENTITY = ("runtime", "logger", "dataset.cache", "dataset.workers", "late_phase.parallel_members", "late_phase.divide")
"""Keys that may change between two starts of a run. They say where and how it is computed and shown."""


def identity(config: TrainConfig) -> dict[str, Any]:
    """Returns the part of a config on which the result depends, as plain values. The times contain the pace already."""

    def keep(values: dict[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: keep(value, f"{prefix}{key}.") if isinstance(value, dict) else value
            for key, value in values.items()
            if f"{prefix}{key}" not in (*NOT_IN_IDENTITY, "pace")
        }

    return keep(asdict(config), "")


def config_hash(config: TrainConfig) -> str:
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:16]


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Returns ``key: old -> new`` for every key in which two nested dicts differ."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a} -> {b}")
    return lines
