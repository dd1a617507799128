"""Writes and reads the file with a run's config."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from late_phase.config.choices import CHOICES
from late_phase.config.paths import expand_paths
from late_phase.config.training import TrainConfig
from late_phase.support.errors import UserError, first_line


def to_yaml(config: TrainConfig) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(asdict(config)))


def from_yaml(path: Path) -> TrainConfig:
    """Reads a config that :func:`to_yaml` has written.

    Raises:
        UserError: the file isn't the config of a run, or has a choice that is not registered.
    """
    try:
        # Configs of the oldest runs lack these groups.
        plain = {"ensemble": {"name": "none"}, "averaging": {"name": "none"}} | OmegaConf.to_container(OmegaConf.load(path))
        config = OmegaConf.structured(TrainConfig)
        for group, choices in CHOICES.items():
            if (name := plain[group]["name"]) not in choices:
                raise ValueError(f"{group}={name} is unknown, so its plug-in may be missing")
            config[group] = OmegaConf.structured(choices[name].config)
        return expand_paths(OmegaConf.to_object(OmegaConf.merge(config, plain)))
    except (OSError, KeyError, TypeError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} is not the config of a run ({first_line(error)}): give the directory of a run.") from error
