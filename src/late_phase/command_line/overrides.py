"""Overrides on the command line: quotes paths, refuses forms that Hydra misreads, and names run directories after overrides."""

from __future__ import annotations

import hashlib
import os.path
import re
from collections.abc import Collection, Iterable

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig

from late_phase.config.choices import CHOICES
from late_phase.config.identity import NOT_IN_IDENTITY
from late_phase.support.errors import UserError, first_line
from late_phase.support.paths import expanded

HYDRA_PATHS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")

PARSER = OverridesParser.create()
QUOTED = re.compile(r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*""", re.DOTALL)
"""A value in Hydra's quotes. A backslash escapes a quote inside it."""


def quote_paths(arguments: list[str], paths: Collection[str]) -> list[str]:
    """Returns the arguments with quotes around paths that Hydra's grammar would misread.

    In a single run the path is all that follows ``KEY=``. In a sweep, commas separate paths. ``null``, interpolations, Hydra's
    functions in a sweep, and values in Hydra's quotes keep their meaning. Other values that contain ``=``, and that Hydra's
    grammar can't read, get the same quotes.

    Args:
        paths: keys whose values are paths; Hydra's own keys are known.

    Raises:
        UserError: Hydra can't read an argument, or would misread it.
    """
    parser = get_args_parser()
    parser.error = _refuse_option
    given = parser.parse_args(arguments)
    sweep = given.multirun or "hydra.mode=MULTIRUN" in arguments
    overrides = {argument: _quoted(argument, paths, sweep) for argument in given.overrides}
    for argument, override in overrides.items():
        _check_form(argument, override)
    return [overrides.get(argument, argument) for argument in arguments]


def _refuse_option(message: str) -> None:
    raise UserError(f"{message}: write options such as -m first and then KEY=VALUE; --hydra-help lists the options.")


def _quoted(argument: str, paths: Collection[str], sweep: bool) -> str:
    key, _, value = argument.partition("=")
    name = key.lstrip("+")
    if name in HYDRA_PATHS:
        return f"{key}={literal(expanded(value))}"  # Hydra itself makes these folders
    if name not in paths and not ("=" in value and _parsed(argument) is None):
        return argument
    if not sweep:
        return f"{key}={literal(value)}"
    if value.startswith("glob("):
        raise UserError(f"{argument} can't find files, as glob finds only choices: write {key}=choice(...) with the paths.")
    if len(elements(value)) > 1 and os.path.exists(expanded(value)):  # noqa: PTH110 Path's own fails where the name is too long
        raise UserError(
            f"{argument} is a file or folder, but in a sweep a comma separates values: "
            f'write "{key}={literal(value)}" for the file, "{key}=choice({value})" for the values.'
        )
    return f"{key}={literals(value)}"


def _check_form(argument: str, override: str) -> None:
    key, equals, _ = argument.partition("=")
    if not key.lstrip("+~").partition("@")[0].strip():
        raise UserError(f"{argument!r} has no key: write KEY=VALUE.")
    if not equals and not key.startswith("~"):
        raise UserError(f"{argument!r} has no value: write {key}=VALUE.")
    try:
        parsed = PARSER.parse_override(override)
    except HydraException as error:
        raise UserError(
            f"{argument!r} can't be read ({first_line(error)}): write KEY=VALUE, and use two kinds of quotes if VALUE has special "
            "characters, as in \"KEY='VALUE'\"."
        ) from error
    group, value = parsed.key_or_group, parsed.value()
    names = getattr(value, "list", [value])  # a sweep has several
    no_name = any(name is None or isinstance(name, int | float | RangeSweep | IntervalSweep) for name in names)
    if no_name and (group in (*CHOICES, "experiment", "debug", "hydra") or "/" in group) and not parsed.is_delete():
        raise UserError(f"{argument} doesn't name a choice: write {key}=NAME, or leave it out.")


def _parsed(argument: str) -> Override | None:
    try:
        return PARSER.parse_override(argument)
    except HydraException:
        return None


def literal(text: str) -> str:
    """Returns a text as a value in Hydra's grammar.

    The text stays as it is if Hydra reads it as that text, if it is null, or if it is already quoted. Otherwise it is quoted.
    """
    parsed = _parsed(f"key={text}")
    if parsed is not None and not parsed.is_sweep_override():
        value = parsed.value()
        if value is None or QUOTED.fullmatch(text):
            return text
        if isinstance(value, str | int | float) and str(value) == text == parsed.get_value_element_as_str():
            return text
    return QuotedString(text, Quote.single).with_quotes()


def as_in_sweeps(override: str) -> str:
    """Returns an override as a sweep passes it to its jobs, whose directories are named after it: ``1e30`` becomes ``1e+30``.

    Raises:
        UserError: the override can't be read, or doesn't give a single value.
    """
    try:
        parsed = PARSER.parse_override(override)
    except HydraException as error:
        raise UserError(f"{override!r} can't be read ({first_line(error)}): write KEY=VALUE.") from error
    if parsed.is_delete() or parsed.is_sweep_override():
        raise UserError(f"{override} doesn't give a single value: write KEY=VALUE, with [...] around a list.")
    return f"{parsed.get_key_element()}={parsed.get_value_element_as_str()}"


def literals(text: str) -> str:
    """Returns texts between commas, or in one of Hydra's functions that list values, as a value in Hydra's grammar."""
    name, _, inside = text.strip().partition("(")
    if name in ("choice", "shuffle", "sort", "tag") and inside.endswith(")"):
        options = PARSER.functions.definitions[name].parameters
        texts = (e if e.partition("=")[0] in options else literals(e) for e in map(str.strip, elements(inside[:-1])))
        return f"{name}({','.join(texts)})"
    found = elements(text)
    return ",".join(literal(element.strip()) for element in found) if len(found) > 1 else literal(text)


def elements(text: str) -> list[str]:
    """Splits a text at its commas, except at those in brackets or quotes."""

    def is_open(element: str) -> bool:
        if element.lstrip()[:1] in ("'", '"'):
            return not QUOTED.fullmatch(element)
        return sum(map(element.count, "([{")) > sum(map(element.count, ")]}"))

    found: list[str] = []
    for piece in text.split(","):
        if found and is_open(found[-1]):
            found[-1] += f",{piece}"
        else:
            found.append(piece)
    return found


def check_overrides(overrides: list[str]) -> None:
    """Refuses orders and forms of overrides that Hydra would silently misread.

    Raises:
        UserError: ``+debug`` comes before ``+experiment``, or ``experiment`` is a list.
    """
    names = [override.lstrip("+").partition("=")[0] for override in overrides]
    if "debug" in names and "experiment" in names[names.index("debug") :]:
        raise UserError("+debug comes before +experiment, which would override it: put +debug after +experiment.")
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key == "experiment" and value.startswith("["):
            raise UserError(f"experiment={value} is a list, but a run has one experiment: choose one, or sweep with -m and commas.")


def unread(overrides: Iterable[str], composed: DictConfig) -> list[str]:
    """Returns the overrides that change nothing: the choice in their group doesn't read the key, and its value isn't null."""
    found = []
    for override in overrides:
        key = override.lstrip("+").partition("=")[0]
        group, _, name = key.partition(".")
        choice = CHOICES[group].get(composed[group].name) if group in CHOICES else None
        if choice is not None and name in choice.config.unread and composed[group][name] is not None:
            found.append(override)
    return found


def check_read(overrides: Iterable[str], composed: DictConfig) -> None:
    """Raises ``UserError`` if an override changes nothing."""
    for override in unread(overrides, composed):
        group = override.lstrip("+").partition(".")[0]
        raise UserError(
            f"{override.lstrip('+')} has no effect with {group}={composed[group].name}: leave it out, or choose another {group}."
        )


def variant(overrides: list[str]) -> str:
    """Returns the part of a run directory that names the run's overrides, such as ``T0=40,K=5``; ``default`` if there are none.

    The name leaves out the experiment, the seed, and keys that are not part of a run's identity. Characters that a file system may
    not accept become ``-``. If characters were replaced, or if the name is long, it ends in a hash of the overrides: different
    overrides have different names. Case is kept without a hash. On a file system that ignores case, overrides that differ only in
    case share a directory, and the second of two such runs is refused.
    """
    parts = []
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        name = key.lstrip("~")
        if name in ("experiment", "seed") or any(f"{name}.".startswith(f"{other}.") for other in NOT_IN_IDENTITY):
            continue
        parts.append(f"{key.removeprefix('late_phase.')}={value}" if value else key)
    text = ",".join(parts)
    name = re.sub(r"[^\w.,=+-]+", "-", text, flags=re.ASCII)
    if name != text or len(name) > 100:
        name = f"{name[:90]}-{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}"
    return name or "default"
