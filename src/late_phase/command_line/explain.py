"""Explains errors of Hydra and OmegaConf in one sentence."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import get_type_hints

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from late_phase.config.choices import CHOICES
from late_phase.config.training import Chosen, TrainConfig
from late_phase.suites.config import EvaluateConfig
from late_phase.support.errors import UserError, first_line


@contextmanager
def explained() -> Iterator[None]:
    """Turns errors of Hydra and OmegaConf within the block into ``UserError``."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from error


def explain(error: BaseException) -> str:
    """Returns one sentence for an error of Hydra or OmegaConf and the errors that caused it."""
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__
    text = "\n".join(texts)
    full = re.search(r"full_key: (\S+)", text)
    if unknown := re.search(r"Key '(\S+)' (?:is not in struct|not in '\w+')", text):
        owner = re.search(r"object_type=(\w+)", text)
        return unknown_key(full[1] if full else unknown[1], schemas().get(owner[1]) if owner else TrainConfig)
    if launcher := re.search(r"In '(hydra/launcher)/(\w+)': Could not load 'hydra/launcher/submitit_", text):
        return f"{launcher[1]}={launcher[2]} needs the package hydra-submitit-launcher: pip install -e '.[slurm]'."
    if choice := re.search(r"Could not find '((?:hydra/)?[^/']+)/([^']*)'", text):
        if choice[2] in CHOICES.get(choice[1], {}):
            return f"{choice[1]}={choice[2]} has no config: give the folder of {choice[1]}/{choice[2]}.yaml with --config-dir."
        available = re.search(r"Available options in '\S+':\s*((?:\n\t\S+)+)", text)
        names = available[1].split() if available else []
        if len(names) > 24:
            names = difflib.get_close_matches(choice[2], names, 5, cutoff=0)
            return f"{choice[1]}={choice[2]} is unknown: did you mean {', '.join(names)} or another of configs/{choice[1]}/?"
        return f"{choice[1]}={choice[2]} is unknown" + (f": choose one of {', '.join(names)}." if names else ".")
    if sweep := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(.+)'", text):
        return f"{sweep[1]} has several values: put -m before it to run each one, write [...] for a list, or quote a text."
    if interpolation := re.search(r"Interpolation key '(.+)' not found", text):
        key = interpolation[1]
        return (
            f"${{{key}}} is not a key of the config: write ${{oc.env:{key}}} for an environment variable, \\${{{key}}} for a text."
        )
    if re.search(r"Could not override 'experiment'", text):
        return "experiment=NAME needs a plus sign: write +experiment=NAME."
    if choice := re.search(r"You must specify '(\S+)'", text):
        return f"{choice[1]} is not chosen: add {choice[1]}=NAME."
    if full and "missing mandatory value" in text.lower():
        return f"{full[1]} is not set: add {full[1]}=VALUE."
    if full and "is not a ListConfig" in text:
        return f"{full[1]} must be a list: write {full[1]}=[...]."
    if full:
        reason = next(line for line in text.splitlines() if line.strip() and "Error merging override" not in line)
        return f"{full[1]}: {reason.strip()}."
    return f"{first_line(error)}: check the command and the files in configs/."


def unknown_key(key: str, owner: type | None) -> str:
    """Returns the sentence for a key that the dataclass ``owner`` doesn't have."""
    group, _, name = key.rpartition(".")
    known = [f.name for f in fields(owner)] if owner else []
    others = [choice for choice, (config, _) in CHOICES.get(group, {}).items() if name in config.__dataclass_fields__]
    close = difflib.get_close_matches(name, known, 1)
    if owner is Chosen and Chosen not in (config for config, _ in CHOICES.get(group, {}).values()):
        return f"{key} has no type: start the defaults in the config of {group}=NAME with - /schema/{group}/NAME@_here_."
    if others:
        *first, last = (f"{group}={other}" for other in others)
        named = f"{', '.join(first)} and {last}" if first else last
        return f"{key} is a key of {named} only: choose that, or leave out {key}."
    cure = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(known)}." if known else "see the files in configs/."
    return f"{key} is not a key of the config: {cure}"


def schemas() -> dict[str, type]:
    """Returns class name -> class for all dataclasses of configs. Errors of OmegaConf contain the class name."""
    found = [Chosen, TrainConfig, EvaluateConfig, *(choice.config for choices in CHOICES.values() for choice in choices.values())]
    for schema in (TrainConfig, EvaluateConfig):
        found += [kind for kind in get_type_hints(schema).values() if is_dataclass(kind)]
    return {schema.__name__: schema for schema in found}
