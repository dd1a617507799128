"""How scripts run on Hydra: what it has to know, the start of a script, and its jobs."""

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
from late_phase.command_line.overrides import check_overrides, quote_paths, variant
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
"""Seconds between two looks at a run that another process is at."""

# Hydra 1.3 gives argparse a help that is no string. Hydra prints it itself, but Python 3.14's argparse reads every help beforehand.
argparse.HelpFormatter._get_help_string = lambda _, action: action.help if isinstance(action.help, str) else ""


def register_schemas() -> None:
    """Makes the schemas and the resolvers known to Hydra; doing it again does no harm."""
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
    """See :func:`variant`. An override with ``${seed}`` in it is the same for all seeds."""
    return variant(OmegaConf.to_container(overrides, resolve=False))


def start(main: Callable[[], None], schema: type) -> None:
    """Calls ``main``, which Hydra has decorated, for the command line, which sets keys of ``schema``."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # makes Hydra raise, so that the sentence is ours
    with errors_in_one_sentence(), explained():
        load_plugins()
        register_schemas()
        sys.argv[1:] = quote_paths(sys.argv[1:], path_keys(schema))
        main()


def as_dataclass(composed: DictConfig) -> Any:
    """The composed config as an instance of its dataclass, all values resolved and present.

    Raises:
        UserError: there is a key that the dataclass doesn't have; a ``+`` on the command line gets it past Hydra. Or a key lacks
            its value; a ``~`` takes it away. Or a list holds lists, or a path is empty.
    """
    typed = OmegaConf.to_object(composed)

    def refuse(given: dict[str, Any], known: Any, prefix: str) -> None:
        for key, value in given.items():
            if key not in known.__dataclass_fields__:
                raise UserError(unknown_key(f"{prefix}{key}", type(known)))
            if isinstance(value, dict):
                refuse(value, getattr(known, key), f"{prefix}{key}.")
            elif isinstance(value, list) and any(isinstance(entry, list) for entry in value):  # which OmegaConf lets pass
                raise UserError(f"{prefix}{key}={value} has lists in it: write {prefix}{key}=[VALUE,...].")

    refuse(OmegaConf.to_container(composed), typed, "")
    for key, value in vars(typed).items():
        if value == MISSING:
            raise UserError(f"{key} is not set: add {key}=VALUE.")
    return expand_paths(typed)


def as_train_config(composed: DictConfig) -> TrainConfig:
    """The composed config of a run, checked.

    Raises:
        UserError: it can't be.
    """
    return check(at_pace(as_dataclass(composed)))


@contextmanager
def job(error: Path | None = None) -> Iterator[None]:
    """Around a job of Hydra's: in a sweep an error is left to Hydra, which goes on with the other jobs and fails at the end.

    Args:
        error: the file that, in a sweep, says why the job failed, until it is started again.
    """
    load_plugins()  # a launcher may have started the job in a process of its own
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

    A directory that stays empty because of an error is removed; in a sweep it keeps the error, for tables to tell.
    """
    hydra = HydraConfig.get()
    directory = Path(hydra.runtime.output_dir)
    key = "run.dir" if hydra.mode == RunMode.RUN else "sweep.subdir"
    named = OmegaConf.select(hydra, key)
    with job(directory / ERROR if named else None):
        try:
            if not named:
                raise UserError(f"hydra.{key} is empty: leave it out, or give a path; that of the current folder is a dot.")
            check_utf8(f"hydra.{key}", directory)
            check_overrides(list(hydra.overrides.task))
            config = as_train_config(composed)
            return run(config, directory) if hydra.mode == RunMode.RUN else in_turn(partial(run, config, directory))
        finally:
            remove_empty(directory)


def in_turn(run: Callable[[], Any]) -> Any:
    """Calls ``run``, once no other process is at it: of two sweeps with jobs in common the second finds them done."""
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
    """Removes a directory, and those above it, as far as they are empty and not where we are."""
    here = Path.cwd()
    with suppress(OSError):  # not empty: the usual case
        for folder in (directory, *directory.parents):
            if folder in (here, *here.parents):
                break
            folder.rmdir()
