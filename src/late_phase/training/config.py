"""The config schema: names, types and identity of a run's settings.

The dataclasses stand first in the defaults lists, so that a misspelt key is an error in an experiment file as well as on the
command line, and so that types are checked. What they hold is documented in ``configs/``, where the values are.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from late_phase.support.errors import UserError, first_line
from late_phase.support.paths import expanded


def path(default: str | None = MISSING) -> Any:
    """A field that is a path: the command line takes it as the shell hands it over, and ``~`` and ``~user`` are expanded."""
    return field(default=default, metadata={"path": True})


@dataclass
class DatasetConfig:
    name: str = MISSING
    subset: int | None = None
    test_subset: int | None = None


@dataclass
class ImagesConfig(DatasetConfig):
    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    mean: list[float] | None = None
    std: list[float] | None = None
    validation: int = 0
    split_seed: int = 0


@dataclass
class DownloadedConfig(ImagesConfig):
    root: str = path()


@dataclass
class ImageFolderConfig(ImagesConfig):
    root: str = path()
    image_size: int | None = None
    cache: str = path()


@dataclass
class ImageNetConfig(ImagesConfig):
    root: str = path()
    workers: int = MISSING


@dataclass
class TextConfig(DatasetConfig):
    sequence_length: int = MISSING
    carry_state: bool = MISSING


@dataclass
class DownloadedTextConfig(TextConfig):
    root: str = path()


@dataclass
class TextFileConfig(TextConfig):
    path: str = path()


@dataclass
class ArchitectureConfig:
    name: str = MISSING
    weights: str | None = path(None)


@dataclass
class ImageArchitectureConfig(ArchitectureConfig):
    channels_last: bool = False
    mc_samples: int = 10


@dataclass
class LeNetConfig(ImageArchitectureConfig):
    dropout: float = 0.0


@dataclass
class WideResNetConfig(ImageArchitectureConfig):
    depth: int = MISSING
    width: int = MISSING
    dropout: float = 0.0


@dataclass
class PyramidNetConfig(ImageArchitectureConfig):
    depth: int = MISSING
    alpha: int = MISSING
    shakedrop: float = MISSING


@dataclass
class LSTMConfig(ArchitectureConfig):
    units: int = MISSING
    embedding: int | None = None


@dataclass
class EnsembleConfig:
    name: str = MISSING


@dataclass
class BatchEnsembleConfig(EnsembleConfig):
    K: int = MISSING
    init: str = MISSING
    lr_factor: float = MISSING


@dataclass
class LatePhaseConfig:
    name: str = MISSING
    K: int = 1
    T0: int | None = None
    sigma0: float = 0.0
    gamma_theta: float = 1.0
    head: bool = False
    weight_decay: float | None = None
    running_statistics: str = "mean"


@dataclass
class Rank1Config(LatePhaseConfig):
    spread: float = 0.0
    matrices: str = "*"


@dataclass
class AveragingConfig:
    name: str = MISSING
    start: int | None = None


@dataclass
class SWAGConfig(AveragingConfig):
    rank: int = MISSING
    samples: int = MISSING
    scale: float = MISSING


@dataclass
class OptimizerConfig:
    name: str = MISSING
    lr: float = MISSING
    weight_decay: float = 0.0


@dataclass
class SGDConfig(OptimizerConfig):
    momentum: float = 0.0
    nesterov: bool = False


@dataclass
class AdamConfig(OptimizerConfig):
    betas: list[float] = MISSING
    eps: float = MISSING


@dataclass
class ScheduleConfig:
    name: str = MISSING


@dataclass
class BreakpointsConfig(ScheduleConfig):
    epochs: list[int] = MISSING
    factors: list[float] = MISSING


@dataclass
class MultistepConfig(BreakpointsConfig):
    warmup: int = 0


@dataclass
class LoggerConfig:
    name: str = MISSING


@dataclass
class WandbConfig(LoggerConfig):
    project: str = MISSING
    entity: str | None = None
    mode: str = MISSING


@dataclass
class ComputeConfig:
    precision: str = "fp32"
    compile: bool = False


@dataclass
class MachineConfig:
    device: str = "auto"
    threads: int | None = None


@dataclass
class RuntimeConfig(MachineConfig):
    progress: bool = True
    evaluate_every: int = 1
    evaluate_swa_every: int = 0
    checkpoint_every: int = 1


@dataclass
class TrainConfig:
    seed: int = 0
    epochs: int = MISSING
    batch_size: int = MISSING
    max_grad_norm: float | None = None
    dataset: DatasetConfig = MISSING
    architecture: ArchitectureConfig = MISSING
    ensemble: EnsembleConfig = MISSING
    late_phase: LatePhaseConfig = MISSING
    averaging: AveragingConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    schedule: ScheduleConfig = MISSING
    logger: LoggerConfig = MISSING
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


SUITES = ("accuracy", "calibration", "ood", "corruption", "flatness")

OWN = "own"
"""The dataset that a run was trained on, and the architecture of its model, for its evaluation."""


@dataclass
class FlatnessConfig:
    sigmas: list[float] = MISSING
    draws: int = MISSING


@dataclass
class EvaluateConfig:
    suite: str = MISSING
    run: str | None = path(None)
    seeds: list[int] | None = None
    to: str | None = path(None)
    dataset: DatasetConfig = field(default_factory=lambda: DatasetConfig(name=OWN))
    architecture: ArchitectureConfig = field(default_factory=lambda: ArchitectureConfig(name=OWN))
    ood: list[str] | None = None
    root: str = path()
    flatness: FlatnessConfig = field(default_factory=FlatnessConfig)
    runtime: MachineConfig = field(default_factory=MachineConfig)


SCHEMAS: dict[str, dict[str, type]] = {
    "dataset": {
        "digits": ImagesConfig,
        "cifar10": DownloadedConfig,
        "cifar100": DownloadedConfig,
        "image_folder": ImageFolderConfig,
        "imagenet": ImageNetConfig,
        "svhn": DownloadedConfig,
        "lsun_resize": DownloadedConfig,
        "tiny_imagenet_resize": DownloadedConfig,
        "photo_patches": ImagesConfig,
        "digits_rotated": ImagesConfig,
        "noise": ImagesConfig,
        "enwik8": DownloadedTextConfig,
        "pydocs": TextConfig,
        "text_file": TextFileConfig,
    },
    "architecture": {
        "lenet": LeNetConfig,
        "wrn": WideResNetConfig,
        "pyramidnet": PyramidNetConfig,
        "resnet50": ImageArchitectureConfig,
        "resnet152": ImageArchitectureConfig,
        "densenet161": ImageArchitectureConfig,
        "lstm": LSTMConfig,
    },
    "ensemble": {"none": EnsembleConfig, "batch_ensemble": BatchEnsembleConfig},
    "late_phase": {
        "none": LatePhaseConfig,
        "accumulation": LatePhaseConfig,
        "batchnorm": LatePhaseConfig,
        "full": LatePhaseConfig,
        "head": LatePhaseConfig,
        "hypernetwork": LatePhaseConfig,
        "rank1": Rank1Config,
    },
    "averaging": {"none": AveragingConfig, "swa": AveragingConfig, "swag": SWAGConfig},
    "optimizer": {"sgd": SGDConfig, "adam": AdamConfig},
    "schedule": {"constant": ScheduleConfig, "piecewise_linear": BreakpointsConfig, "multistep": MultistepConfig},
    "logger": {"csv": LoggerConfig, "wandb": WandbConfig},
}
"""Config group -> name -> type: the one place where the names of choices are listed for the configs."""

NOT_IN_IDENTITY = ("runtime", "logger", "dataset.cache", "dataset.workers")
"""Keys that may change between two starts of the same run: they say where and how it is computed and shown, not what."""


def identity(config: TrainConfig) -> dict[str, Any]:
    """The part of a config on which the result depends, as plain values."""

    def keep(values: dict[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: keep(value, f"{prefix}{key}.") if isinstance(value, dict) else value
            for key, value in values.items()
            if f"{prefix}{key}" not in NOT_IN_IDENTITY
        }

    return keep(asdict(config), "")


def config_hash(config: TrainConfig) -> str:
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:16]


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """``key: old -> new`` for every key in which two nested dicts differ."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a} -> {b}")
    return lines


def path_keys(schema: type, prefix: str = "") -> set[str]:
    """The keys of all paths in configs of this type, whatever is chosen for their groups."""
    keys, types = set(), get_type_hints(schema)
    for f in fields(schema):
        if is_dataclass(types[f.name]):
            for kind in {types[f.name], *SCHEMAS.get(f"{prefix}{f.name}", {}).values()}:
                keys |= path_keys(kind, f"{prefix}{f.name}.")
        elif "path" in f.metadata:
            keys.add(f"{prefix}{f.name}")
    return keys


def expand_paths(config: Any, prefix: str = "") -> Any:
    """The config, with home folders for ``~`` and ``~user`` in its paths.

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
                raise UserError(f"{prefix}{f.name} is empty: give a path; that of the current folder is a dot.")
            changes[f.name] = expanded(value)
    return replace(config, **changes)


def options(group: Any, base: type | None = None) -> dict[str, Any]:
    """What a config group says besides its name and the keys of ``base``, as keyword arguments for whom it configures."""
    common = {"name"} | set(base.__dataclass_fields__ if base else ())
    return {key: value for key, value in asdict(group).items() if key not in common}


def to_yaml(config: TrainConfig) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(asdict(config)))


def from_yaml(path: Path) -> TrainConfig:
    """The config that :func:`to_yaml` wrote.

    Raises:
        UserError: the file isn't one.
    """
    try:
        # The first runs had not these groups.
        plain = {"ensemble": {"name": "none"}, "averaging": {"name": "none"}} | OmegaConf.to_container(OmegaConf.load(path))
        groups = {group: types[plain[group]["name"]] for group, types in SCHEMAS.items()}
        config = OmegaConf.structured(TrainConfig)
        for group, schema in groups.items():
            config[group] = OmegaConf.structured(schema)
        return expand_paths(OmegaConf.to_object(OmegaConf.merge(config, plain)))
    except (OSError, KeyError, TypeError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} is not the config of a run ({first_line(error)}): give the directory of one.") from error
