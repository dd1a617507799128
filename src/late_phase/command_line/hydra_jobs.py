"""Runs scripts on Hydra: registers the schemas, starts a script, and surrounds its jobs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

from late_phase.command_line.explain import explained, unknown_key
from late_phase.command_line.overrides import check_overrides, check_read, quote_paths, variant
from late_phase.command_line.plugins import load_plugins
from late_phase.config.check import check
from late_phase.config.choices import CHOICES
from late_phase.config.pace import at_pace
from late_phase.config.paths import expand_paths, path_keys
from late_phase.config.training import TrainConfig
from late_phase.runs.errors import ERROR, recorded
from late_phase.suites.config import EvaluateConfig
from late_phase.support.console import console, errors_in_one_sentence
from late_phase.support.errors import Busy, UserError
from late_phase.support.paths import check_utf8

WAIT = 2.0
"""Seconds between two attempts at a run that another process has locked."""

# Hydra 1.3 gives argparse a help that is not a string and prints it itself. Python 3.14's argparse reads all helps before that.
argparse.HelpFormatter._get_help_string = lambda _, action: action.help if isinstance(action.help, str) else ""

# Hydra copies the store of all schemas several times for each config, and again what it loads from there. One store is enough.
ConfigStore.__deepcopy__ = lambda self, _: self


def register_schemas() -> None:
    """Registers the schemas and the resolvers with Hydra. It may be called several times."""
    store = ConfigStore.instance()
    store.store(group="schema", name="train", node=TrainConfig)
    store.store(group="schema", name="evaluate", node=EvaluateConfig)
    for group, choices in CHOICES.items():
        for name, choice in choices.items():
            store.store(group=f"schema/{group}", name=name, node=choice.config)
    OmegaConf.register_new_resolver("variant", _variant, replace=True)
    OmegaConf.register_new_resolver("inverse", lambda a: 1 / a, replace=True)
    OmegaConf.register_new_resolver("times", lambda a, b: a * b, replace=True)


def _variant(overrides: ListConfig) -> str:
    """Names the variant, see :func:`variant`. ``${seed}`` stays unresolved, so that all seeds share the name."""
    return variant(OmegaConf.to_container(overrides, resolve=False))


def start(main: Callable[[], None], schema: type) -> None:
    """Calls a ``main`` that Hydra has decorated.

    Args:
        schema: the dataclass whose keys the command line sets.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # makes Hydra raise its errors, which are then explained here
    with errors_in_one_sentence(), explained():
        load_plugins()
        register_schemas()
        sys.argv[1:] = quote_paths(sys.argv[1:], path_keys(schema))
        main()


def as_dataclass(composed: DictConfig) -> Any:
    """Returns the composed config as an instance of its dataclass, with all values resolved and present.

    Raises:
        UserError: a key is unknown to the dataclass (a ``+`` on the command line gets it past Hydra), a key has no value (a ``~``
            removes it), a list holds lists, or a path is empty.
    """
    typed = OmegaConf.to_object(composed)

    def refuse(given: dict[str, Any], known: Any, prefix: str) -> None:
        for key, value in given.items():
            if key not in known.__dataclass_fields__:
                raise UserError(unknown_key(f"{prefix}{key}", type(known)))
            if isinstance(value, dict):
                refuse(value, getattr(known, key), f"{prefix}{key}.")
            elif isinstance(value, list) and any(isinstance(entry, list) for entry in value):  # OmegaConf accepts it
                raise UserError(f"{prefix}{key}={value} has lists in it: write {prefix}{key}=[VALUE,...].")

    refuse(OmegaConf.to_container(composed), typed, "")
    for key, value in vars(typed).items():
        if value == MISSING:
            raise UserError(f"{key} is not set: add {key}=VALUE.")
    return expand_paths(typed)


def as_train_config(composed: DictConfig) -> TrainConfig:
    """Returns the config of a run, checked, with its times at its pace.

    Raises:
        UserError: the config can't work.
    """
    return check(at_pace(as_dataclass(composed)))


@contextmanager
def job(error: Path | None = None) -> Iterator[None]:
    """Surrounds a job of Hydra. In a sweep, Hydra gets the errors: it goes on with the other jobs and fails at the end.

    Args:
        error: the file that says why a job of a sweep failed. The next start of the job removes it.
    """
    load_plugins()  # the launcher may have started a new process for the job
    if HydraConfig.get().mode == RunMode.RUN:
        if error is not None:
            error.unlink(missing_ok=True)
        with errors_in_one_sentence(), explained():
            yield
    else:
        with console(), recorded(error):
            yield


def run_job(composed: DictConfig, run: Callable[[TrainConfig, Path], Any]) -> Any:
    """Calls ``run`` with the checked config and the run directory that Hydra made for it.

    If an error leaves the directory empty, the directory is removed. In a sweep it keeps the error, which tables show.
    """
    hydra = HydraConfig.get()
    directory = Path(hydra.runtime.output_dir)
    key = "run.dir" if hydra.mode == RunMode.RUN else "sweep.subdir"
    named = OmegaConf.select(hydra, key)
    with job(directory / ERROR if named else None):
        try:
            if not named:
                raise UserError(f"hydra.{key} is empty: leave it out, or give a path, such as . for the current folder.")
            check_utf8(f"hydra.{key}", directory)
            if hydra.mode != RunMode.RUN and "TORCHELASTIC_RUN_ID" in os.environ:
                raise UserError("torchrun starts one run, and -m several: leave out -m, or start a sweep without torchrun.")
            check_overrides(list(hydra.overrides.task))
            config = as_train_config(composed)
            check_read(hydra.overrides.task, composed)
            return run(config, directory) if hydra.mode == RunMode.RUN else in_turn(partial(run, config, directory))
        finally:
            remove_empty(directory)


def in_turn(run: Callable[[], Any]) -> Any:
    """Calls ``run``, and waits while another process holds the run. If two sweeps share a job, the second one finds it done."""
    told = False
    while True:
        try:
            return run()
        except Busy as busy:
            if not told:
                print(f"waiting: {busy}", file=sys.stderr)
            told = True
            time.sleep(WAIT)


def remove_empty(directory: Path) -> None:
    """Removes a directory and the folders above it, up to the first that is not empty or contains the current folder."""
    here = Path.cwd()
    with suppress(OSError):  # usually the directory is not empty
        for folder in (directory, *directory.parents):
            if folder in (here, *here.parents):
                break
            folder.rmdir()
