"""All that knows Hydra: schemas and resolvers, names of run directories, jobs, and errors in one sentence."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from late_phase.errors import UserError, first_line
from late_phase.training import config
from late_phase.training.checks import check
from late_phase.training.config import NOT_IN_IDENTITY, SCHEMAS, EvaluateConfig, TrainConfig


def register_schemas() -> None:
    """Makes the schemas and the resolvers known to Hydra. Called at import; calling it again does no harm."""
    store = ConfigStore.instance()
    store.store(group="schema", name="train", node=TrainConfig)
    store.store(group="schema", name="evaluate", node=EvaluateConfig)
    for group, types in SCHEMAS.items():
        for name, schema in types.items():
            store.store(group=f"schema/{group}", name=name, node=schema)
    OmegaConf.register_new_resolver("variant", variant, replace=True)
    OmegaConf.register_new_resolver("inverse", lambda a: 1 / a, replace=True)
    OmegaConf.register_new_resolver("times", lambda a, b: a * b, replace=True)


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
        quoted.append(f"{key}='{value}'" if "=" in value and not re.search(r"['\"\[]|(?<!\$){", value) else argument)
    return quoted


def as_dataclass(composed: DictConfig) -> Any:
    """The composed config as an instance of its dataclass, all values resolved and present.

    Raises:
        UserError: there is a key that the dataclass doesn't have; a ``+`` on the command line gets it past Hydra.
    """
    typed = OmegaConf.to_object(composed)

    def refuse_unknown(given: dict[str, Any], known: Any, prefix: str) -> None:
        for key, value in given.items():
            if key not in known.__dataclass_fields__:
                raise UserError(unknown_key(f"{prefix}{key}", type(known).__name__))
            if isinstance(value, dict):
                refuse_unknown(value, getattr(known, key), f"{prefix}{key}.")

    refuse_unknown(OmegaConf.to_container(composed), typed, "")
    return typed


def run_job(composed: DictConfig, job: Callable[[TrainConfig, Path], Any]) -> Any:
    """Calls ``job`` with the checked config and the run directory that Hydra made for it.

    A directory that stays empty because of an error is removed. In a sweep an error is left to Hydra, which goes on with the other
    jobs and fails at the end.
    """
    directory = Path(HydraConfig.get().runtime.output_dir)
    in_one_sentence = errors_in_one_sentence() if HydraConfig.get().mode == RunMode.RUN else nullcontext()
    with in_one_sentence:
        try:
            check_overrides(list(HydraConfig.get().overrides.task))
            return job(check(as_dataclass(composed)), directory)
        finally:
            with suppress(OSError):  # not empty: the usual case
                os.removedirs(directory)


# Errors.


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
        names = available[1].split() if available else []
        if len(names) > 16:
            names = difflib.get_close_matches(choice[2], names, 5, cutoff=0)
            return f"{choice[1]}={choice[2]} is unknown: did you mean {', '.join(names)} or another of configs/{choice[1]}/?"
        return f"{choice[1]}={choice[2]} is unknown" + (f": choose one of {', '.join(names)}." if names else ".")
    if re.search(r"Could not override 'experiment'", text):
        return "an experiment is added, not replaced: write +experiment=NAME."
    if choice := re.search(r"You must specify '(\S+)'", text):
        return f"{choice[1]} is not chosen: add {choice[1]}=NAME."
    if full and "missing mandatory value" in text.lower():
        return f"{full[1]} is not set: add {full[1]}=VALUE."
    if full and "is not a ListConfig" in text:
        return f"{full[1]} is a list: write {full[1]}=[...]."
    if full:
        reason = next(line for line in text.splitlines() if line.strip() and "Error merging override" not in line)
        return f"{full[1]}: {reason.strip()}."
    return f"{first_line(error)}: look at the command, and at the files in configs/."


def unknown_key(key: str, owner: str) -> str:
    """The sentence for a key that the dataclass named ``owner`` doesn't have."""
    known = list(getattr(getattr(config, owner, None), "__dataclass_fields__", ()))
    close = difflib.get_close_matches(key.rpartition(".")[2], known, 1)
    cure = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(known)}." if known else "see the files in configs/."
    return f"{key} is not a key of the config: {cure}"


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


register_schemas()
