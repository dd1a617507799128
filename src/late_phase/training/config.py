"""The config schema and all that knows Hydra: types, checks, names of run directories, and errors in one sentence.

The dataclasses stand first in the defaults lists, so that a misspelt key is an error in an experiment file as well as on the
command line, and so that types are checked. What they hold besides is documented in ``configs/``, where the values are.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from late_phase.errors import UserError

# ----------------------------------------------------------------------------------------------------------------------- schema


@dataclass
class DatasetConfig:
    name: str = MISSING
    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    mean: list[float] | None = None
    std: list[float] | None = None
    subset: int | None = None
    validation: int = 0
    test_subset: int | None = None
    split_seed: int = 0


@dataclass
class DownloadedConfig(DatasetConfig):
    root: str = MISSING


@dataclass
class ImageFolderConfig(DatasetConfig):
    root: str = MISSING
    image_size: int | None = None
    cache: str = MISSING


@dataclass
class ArchitectureConfig:
    name: str = MISSING
    channels_last: bool = False


@dataclass
class WideResNetConfig(ArchitectureConfig):
    depth: int = MISSING
    width: int = MISSING


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
class RuntimeConfig:
    device: str = "auto"
    threads: int | None = None
    progress: bool = True
    evaluate_every: int = 1
    checkpoint_every: int = 1


@dataclass
class TrainConfig:
    seed: int = 0
    epochs: int = MISSING
    batch_size: int = MISSING
    dataset: DatasetConfig = MISSING
    architecture: ArchitectureConfig = MISSING
    late_phase: LatePhaseConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    schedule: ScheduleConfig = MISSING
    logger: LoggerConfig = MISSING
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


@dataclass
class EvaluateConfig:
    run: str = MISSING
    dataset: DatasetConfig | None = None
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


SCHEMAS: dict[str, dict[str, type]] = {
    "dataset": {
        "digits": DatasetConfig,
        "cifar10": DownloadedConfig,
        "cifar100": DownloadedConfig,
        "image_folder": ImageFolderConfig,
    },
    "architecture": {"lenet": ArchitectureConfig, "wrn": WideResNetConfig},
    "late_phase": {"none": LatePhaseConfig, "batchnorm": LatePhaseConfig},
    "optimizer": {"sgd": SGDConfig, "adam": AdamConfig},
    "schedule": {"constant": ScheduleConfig, "piecewise_linear": BreakpointsConfig, "multistep": BreakpointsConfig},
    "logger": {"csv": LoggerConfig, "wandb": WandbConfig},
}
"""Config group -> name -> type: the one place where the names of choices are listed for the configs."""

NOT_IN_IDENTITY = ("runtime", "logger", "dataset.cache")
"""Keys that may change between two starts of the same run: they say where and how it is computed and shown, not what."""


def register_schemas() -> None:
    """Makes the schemas and the resolvers known to Hydra. Called at import; calling it again does no harm."""
    store = ConfigStore.instance()
    store.store(group="schema", name="train", node=TrainConfig)
    store.store(group="schema", name="evaluate", node=EvaluateConfig)
    for group, types in SCHEMAS.items():
        for name, schema in types.items():
            store.store(group=f"schema/{group}", name=name, node=schema)
    OmegaConf.register_new_resolver("variant", variant, replace=True)
    OmegaConf.register_new_resolver("times", lambda a, b: a * b, replace=True)


# ------------------------------------------------------------------------------------------------------------------------ names


def variant(overrides: list[str]) -> str:
    """The part of a run directory that names a run's overrides, such as ``T0=40,K=5``; ``default`` without.

    Left out are the experiment, the seed, and what is not part of a run's identity. Characters that a file system may not like
    become ``-``; a long name ends in a hash.
    """
    parts = []
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key in ("experiment", "seed") or any(f"{key}.".startswith(f"{other}.") for other in NOT_IN_IDENTITY):
            continue
        parts.append(f"{key.removeprefix('late_phase.')}={value}" if value else key)
    name = re.sub(r"[^\w.,=+-]+", "-", ",".join(parts)) or "default"
    if len(name) > 100:
        name = f"{name[:90]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name


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


# ------------------------------------------------------------------------------------------------------------------------ files


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
        plain = OmegaConf.to_container(OmegaConf.load(path))
        groups = {group: types[plain[group]["name"]] for group, types in SCHEMAS.items()}
        config = OmegaConf.structured(TrainConfig)
        for group, schema in groups.items():
            config[group] = OmegaConf.structured(schema)
        return OmegaConf.to_object(OmegaConf.merge(config, plain))
    except (OSError, KeyError, TypeError, ValueError, OmegaConfBaseException) as error:
        raise UserError(f"{path} is not the config of a run ({_first_line(error)}): give the directory of one.") from error


# ----------------------------------------------------------------------------------------------------------------------- checks


def check(config: TrainConfig) -> TrainConfig:
    """Refuses what can't work, before any work; what depends on the data is checked when the data is there.

    Raises:
        UserError: naming the key, the value and the cure.
    """

    def at_least(key: str, lowest: float) -> None:
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        if value is not None and not lowest <= value < float("inf"):
            raise UserError(f"{key}={value} is out of range: choose a number of at least {lowest}.")

    def one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
        if value not in choices:
            raise UserError(f"{key}={value} is unknown: choose one of {', '.join(choices)}.")

    for key in ("epochs", "batch_size", "late_phase.K", "dataset.subset", "dataset.test_subset", "runtime.threads"):
        at_least(key, 1)
    for key in ("dataset.crop_padding", "dataset.cutout", "dataset.validation", "late_phase.sigma0", "late_phase.T0"):
        at_least(key, 0)
    for key in ("optimizer.weight_decay", "late_phase.weight_decay", "runtime.evaluate_every", "runtime.checkpoint_every"):
        at_least(key, 0)
    for group, types in SCHEMAS.items():
        one_of(f"{group}.name", getattr(config, group).name, tuple(types))
        if not isinstance(getattr(config, group), types[getattr(config, group).name]):
            raise UserError(f"{group}.name can't be set by itself: choose the whole group with {group}=...")
    one_of("late_phase.running_statistics", config.late_phase.running_statistics, ("mean", "folded", "recompute"))
    one_of("compute.precision", config.compute.precision, ("fp32", "bf16"))
    for key, value in (("optimizer.lr", config.optimizer.lr), ("late_phase.gamma_theta", config.late_phase.gamma_theta)):
        if not 0 < value < float("inf"):
            raise UserError(f"{key}={value} would not learn: choose a number above 0.")
    fractions = {"optimizer.momentum": [config.optimizer.momentum]} if isinstance(config.optimizer, SGDConfig) else {}
    if isinstance(config.optimizer, AdamConfig):
        fractions = {"optimizer.betas": config.optimizer.betas}
        at_least("optimizer.eps", 0)
        if len(config.optimizer.betas) != 2:
            raise UserError(f"optimizer.betas={config.optimizer.betas} are not two: choose [0.9, 0.999].")
    for key, values in fractions.items():
        if not all(0 <= value < 1 for value in values):
            raise UserError(f"{key}={values if len(values) > 1 else values[0]} is out of range: choose from 0 to below 1.")
    if not 0 <= config.seed < 2**63:
        raise UserError(f"seed={config.seed} is out of range: choose from 0 to below 2^63.")
    if (config.runtime.threads or 1) > 1024:
        raise UserError(f"runtime.threads={config.runtime.threads} is more than a machine has cores: choose at most 1024.")
    if (config.late_phase.T0 or 0) > config.epochs:
        raise UserError(
            f"late_phase.T0={config.late_phase.T0} is after the last epoch ({config.epochs}): choose an earlier one or more epochs."
        )
    if config.late_phase.name != "none" and config.late_phase.T0 is None:
        raise UserError("late_phase.T0 is not set: choose the epoch at which the members are spawned.")
    if config.late_phase.name == "none" and config.late_phase.K != 1:
        raise UserError(f"late_phase.K={config.late_phase.K} needs late-phase weights: choose K=1 with late_phase=none.")
    if isinstance(config.optimizer, SGDConfig) and config.optimizer.nesterov and config.optimizer.momentum <= 0:
        raise UserError(f"optimizer.nesterov needs momentum, and optimizer.momentum={config.optimizer.momentum}: choose 0.9.")
    if isinstance(config.schedule, BreakpointsConfig):
        epochs, factors = config.schedule.epochs, config.schedule.factors
        rising = sorted(set(epochs)) == list(epochs)
        if len(epochs) != len(factors) or not epochs or not rising or not all(0 <= f < float("inf") for f in factors):
            raise UserError(
                f"schedule.epochs={epochs} and schedule.factors={factors} don't make a schedule: "
                "give as many factors as epochs, the epochs rising, no factor below 0."
            )
    if (config.dataset.mean is None) != (config.dataset.std is None):
        raise UserError("dataset.mean and dataset.std go together: set both, or neither to have them computed.")
    return config


# ----------------------------------------------------------------------------------------------------------------------- errors


def explain(error: BaseException) -> str:
    """One sentence for an error of Hydra's or OmegaConf's, which may be wrapped in others."""
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__
    text = "\n".join(texts)
    full = re.search(r"full_key: (\S+)", text)
    if unknown := re.search(r"Key '(\S+)' (?:is not in struct|not in '\w+')", text):
        owner = re.search(r"object_type=(\w+)", text)
        return unknown_key(full[1] if full else unknown[1], owner[1] if owner else "TrainConfig")
    if choice := re.search(r"(?:Could not find|In '.*?': Could not find) '(\S+?)/([^']+)'", text):
        available = re.search(r"Available options in '\S+':\s*((?:\n\t\S+)+)", text)
        return f"{choice[1]}={choice[2]} is unknown" + (f": choose one of {', '.join(available[1].split())}." if available else ".")
    if re.search(r"Could not override 'experiment'", text):
        return "an experiment is added, not replaced: write +experiment=NAME."
    if choice := re.search(r"You must specify '(\S+)'", text):
        return f"{choice[1]} is not chosen: add {choice[1]}=NAME."
    if full and "missing mandatory value" in text.lower():
        return f"{full[1]} is not set: add {full[1]}=VALUE."
    if full:
        reason = next(line for line in text.splitlines() if line.strip() and "Error merging override" not in line)
        return f"{full[1]}: {reason.strip()}."
    return f"{_first_line(error)}: look at the command, and at the files in configs/."


def unknown_key(key: str, owner: str) -> str:
    """The sentence for a key that the dataclass named ``owner`` doesn't have."""
    types = [TrainConfig, EvaluateConfig, ComputeConfig, RuntimeConfig, *(t for group in SCHEMAS.values() for t in group.values())]
    known = {t.__name__: list(t.__dataclass_fields__) for t in types}.get(owner, [])
    close = difflib.get_close_matches(key.rpartition(".")[2], known, 1)
    cure = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(known)}." if known else "see the files in configs/."
    return f"{key} is not a key of the config: {cure}"


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


@contextmanager
def errors_in_one_sentence() -> Iterator[None]:
    """Turns errors that a user can mend into one sentence on standard error and exit status 1; leaves others their traceback."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # makes Hydra raise, so that the sentence is ours
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {explain(error)}")
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"error: {error.filename} can't be used ({error.strerror}): choose another place or change its permissions.")


# ------------------------------------------------------------------------------------------------------------------------ entry


def check_overrides(overrides: list[str]) -> None:
    """Refuses orders and forms of overrides that Hydra takes silently in another sense than meant.

    Raises:
        UserError: ``+debug`` before ``+experiment``, or a list of experiments.
    """
    names = [override.lstrip("+").partition("=")[0] for override in overrides]
    if "debug" in names and "experiment" in names[names.index("debug") :]:
        raise UserError("+debug stands before +experiment, which would overrule it: put +debug after +experiment.")
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key == "experiment" and value.startswith("["):
            raise UserError(f"experiment={value} is a list, which run directories can't be named after: choose one experiment.")


def quote_paths(arguments: list[str]) -> list[str]:
    """Command-line arguments with quotes around values that have a ``=``, as run directories do: Hydra's grammar wants them."""
    quoted = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        quoted.append(f"{key}='{value}'" if "=" in value and not re.search(r"['\"\[{]", value) else argument)
    return quoted


def as_dataclass(config: DictConfig) -> Any:
    """The composed config as an instance of its dataclass, all values resolved and present.

    Raises:
        UserError: there is a key that the dataclass doesn't have; a ``+`` on the command line gets it past Hydra.
    """
    typed = OmegaConf.to_object(config)

    def refuse_unknown(given: dict[str, Any], known: Any, prefix: str) -> None:
        for key, value in given.items():
            if key not in known.__dataclass_fields__:
                raise UserError(unknown_key(f"{prefix}{key}", type(known).__name__))
            if isinstance(value, dict):
                refuse_unknown(value, getattr(known, key), f"{prefix}{key}.")

    refuse_unknown(OmegaConf.to_container(config), typed, "")
    return typed


def run_job(config: DictConfig, job: Callable[[TrainConfig, Path], Any]) -> Any:
    """Calls ``job`` with the checked config and the run directory that Hydra made for it.

    A directory that stays empty because of an error is removed. In a sweep an error is left to Hydra, which goes on with the other
    jobs and fails at the end.
    """
    directory = Path(HydraConfig.get().runtime.output_dir)
    in_one_sentence = errors_in_one_sentence() if HydraConfig.get().mode == RunMode.RUN else nullcontext()
    with in_one_sentence:
        try:
            check_overrides(list(HydraConfig.get().overrides.task))
            return job(check(as_dataclass(config)), directory)
        finally:
            with suppress(OSError):  # not empty: the usual case
                os.removedirs(directory)


register_schemas()
