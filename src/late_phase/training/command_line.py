"""How scripts run on Hydra: schemas and resolvers, the start of a script, its jobs, and errors in one sentence."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from late_phase.support.console import console
from late_phase.support.errors import UserError, first_line
from late_phase.support.paths import check_utf8
from late_phase.training import config
from late_phase.training.checks import check
from late_phase.training.config import SCHEMAS, EvaluateConfig, TrainConfig, expand_paths, path_keys
from late_phase.training.overrides import check_overrides, quote_paths, variant

# Hydra 1.3 gives argparse a help that is no string. Hydra prints it itself, but Python 3.14's argparse reads every help beforehand.
argparse.HelpFormatter._get_help_string = lambda _, action: action.help if isinstance(action.help, str) else ""


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


def start(main: Callable[[], None], schema: type) -> None:
    """Calls ``main``, which Hydra has decorated, for the command line, which sets keys of ``schema``."""
    with errors_in_one_sentence():
        sys.argv[1:] = quote_paths(sys.argv[1:], path_keys(schema))
        main()


def as_dataclass(composed: DictConfig) -> Any:
    """The composed config as an instance of its dataclass, all values resolved and present.

    Raises:
        UserError: there is a key that the dataclass doesn't have; a ``+`` on the command line gets it past Hydra. Or a key lacks
            its value; a ``~`` takes it away. Or a path is empty.
    """
    typed = OmegaConf.to_object(composed)

    def refuse_unknown(given: dict[str, Any], known: Any, prefix: str) -> None:
        for key, value in given.items():
            if key not in known.__dataclass_fields__:
                raise UserError(unknown_key(f"{prefix}{key}", type(known).__name__))
            if isinstance(value, dict):
                refuse_unknown(value, getattr(known, key), f"{prefix}{key}.")

    refuse_unknown(OmegaConf.to_container(composed), typed, "")
    for key, value in vars(typed).items():
        if value == MISSING:
            raise UserError(f"{key} is not set: add {key}=VALUE.")
    return expand_paths(typed)


@contextmanager
def job() -> Iterator[None]:
    """Around a job of Hydra's: in a sweep an error is left to Hydra, which goes on with the other jobs and fails at the end."""
    with errors_in_one_sentence() if HydraConfig.get().mode == RunMode.RUN else console():
        yield


def run_job(composed: DictConfig, run: Callable[[TrainConfig, Path], Any]) -> Any:
    """Calls ``run`` with the checked config and the run directory that Hydra made for it.

    A directory that stays empty because of an error is removed.
    """
    hydra = HydraConfig.get()
    directory = Path(hydra.runtime.output_dir)
    with job():
        try:
            key = "run.dir" if hydra.mode == RunMode.RUN else "sweep.subdir"
            if not OmegaConf.select(hydra, key):
                raise UserError(f"hydra.{key} is empty: leave it out, or give a path; that of the current folder is a dot.")
            check_utf8(f"hydra.{key}", directory)
            check_overrides(list(hydra.overrides.task))
            return run(check(as_dataclass(composed)), directory)
        finally:
            remove_empty(directory)


def remove_empty(directory: Path) -> None:
    """Removes a directory, and those above it, as far as they are empty and not where we are."""
    here = Path.cwd()
    with suppress(OSError):  # not empty: the usual case
        for folder in (directory, *directory.parents):
            if folder in (here, *here.parents):
                break
            folder.rmdir()


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
    if choice := re.search(r"Could not find '((?:hydra/)?[^/']+)/([^']*)'", text):
        available = re.search(r"Available options in '\S+':\s*((?:\n\t\S+)+)", text)
        names = available[1].split() if available else []
        if len(names) > 16:
            names = difflib.get_close_matches(choice[2], names, 5, cutoff=0)
            return f"{choice[1]}={choice[2]} is unknown: did you mean {', '.join(names)} or another of configs/{choice[1]}/?"
        return f"{choice[1]}={choice[2]} is unknown" + (f": choose one of {', '.join(names)}." if names else ".")
    if sweep := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(.+)'", text):
        return f"{sweep[1]} has several values: put -m before it to run each, or write [...] for a list, or quotes for a text."
    if interpolation := re.search(r"Interpolation key '(.+)' not found", text):
        key = interpolation[1]
        return (
            f"${{{key}}} is no key of the config: write ${{oc.env:{key}}} for an environment variable, \\${{{key}}} for the text."
        )
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
    """Around all that a script does: errors that a user can mend become one sentence on standard error and exit status 1; others
    keep their traceback. And as with :func:`console`."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # makes Hydra raise, so that the sentence is ours
    with console():
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
