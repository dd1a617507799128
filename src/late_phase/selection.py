"""Selections: which of a model's parameters are late-phase weights (φ).

A selection is a list of rules. Selections combine with ``+``; the union is taken. Every rule must pick something, so that a
misspelt name or a forgotten layer cannot silently turn late-phase learning into plain gradient accumulation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn


class Rule(NamedTuple):
    """One way of picking parameters: its spelling, for messages, and a function from a model to full parameter names."""

    spelling: str
    pick: Callable[[nn.Module], Iterable[str]]


class Selection:
    """A union of rules, resolved against a model when late-phase learning is set up."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules

    def __add__(self, other: Selection) -> Selection:
        if not isinstance(other, Selection):
            return NotImplemented
        return Selection(*self.rules, *other.rules)

    def __repr__(self) -> str:
        return " + ".join(rule.spelling for rule in self.rules) or "nothing()"

    def names(self, model: nn.Module) -> list[str]:
        """Full names of the selected parameters, in the model's own order; a tied parameter goes by its first name.

        Raises:
            ValueError: a rule matches no parameter, or a selected parameter is frozen.
        """
        parameters = dict(model.named_parameters(remove_duplicate=False))
        selected: set[int] = set()
        for rule in self.rules:
            picked = set(rule.pick(model))
            if not picked:
                raise ValueError(
                    f"{rule.spelling} matches no parameter of {type(model).__name__}: "
                    "choose from the names in model.named_parameters()."
                )
            selected |= {id(parameters[name]) for name in picked}
        names = [name for name, parameter in model.named_parameters() if id(parameter) in selected]
        for name in names:
            if not parameters[name].requires_grad:
                raise ValueError(f"late-phase weight {name} is frozen: call requires_grad_(True) on it or leave it out of {self}.")
        return names


def by_predicate(predicate: Callable[[str, nn.Parameter], bool]) -> Selection:
    """Parameters for which ``predicate(full_name, parameter)`` is true."""

    def pick(model: nn.Module) -> list[str]:
        return [name for name, parameter in model.named_parameters() if predicate(name, parameter)]

    return Selection(Rule(f"by_predicate({getattr(predicate, '__name__', predicate)})", pick))


def by_name(*patterns: str) -> Selection:
    """Parameters named like a pattern, or inside a module named like it; ``*`` and ``?`` as in a shell."""

    def rule(pattern: str) -> Rule:
        def pick(model: nn.Module) -> list[str]:
            names = (name for name, _ in model.named_parameters(remove_duplicate=False))
            return [name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]

        return Rule(f"by_name({pattern!r})", pick)

    return Selection(*map(rule, patterns))


def _parameters_of(model: nn.Module, is_selected: Callable[[str, nn.Module], bool]) -> list[str]:
    """Full names of all parameters inside the modules for which ``is_selected(name, module)`` is true."""
    return [
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if is_selected(prefix, module)
        for name, _ in module.named_parameters(remove_duplicate=False)
    ]


def by_type(*types: type[nn.Module]) -> Selection:
    """All parameters of the modules of these types, nested ones included."""
    spelling = f"by_type({', '.join(t.__name__ for t in types)})"
    return Selection(Rule(spelling, lambda model: _parameters_of(model, lambda _, module: isinstance(module, types))))


def batchnorm() -> Selection:
    """Scales and shifts of all BatchNorm layers (Section 2.2, late-phase batch normalization layers)."""
    (rule,) = by_type(nn.modules.batchnorm._BatchNorm).rules
    return Selection(rule._replace(spelling="batchnorm()"))


def head(name: str | None = None) -> Selection:
    """Weight and bias of the classification layer: the module of that name, or without a name the last ``nn.Linear``."""

    def pick(model: nn.Module) -> list[str]:
        linear = [prefix for prefix, module in model.named_modules() if isinstance(module, nn.Linear)]
        target = name if name is not None else next(reversed(linear), None)
        return _parameters_of(model, lambda prefix, _: prefix == target)

    return Selection(Rule("head()" if name is None else f"head({name!r})", pick))


def everything() -> Selection:
    """All parameters that are trained: a deep ensemble that is spawned at T0 (Section 3.2)."""
    (rule,) = by_predicate(lambda name, parameter: parameter.requires_grad).rules
    return Selection(rule._replace(spelling="everything()"))


def nothing() -> Selection:
    """No parameter: with K > 1 the iteration is plain gradient accumulation (Table 10), with K = 1 plain training."""
    return Selection()
