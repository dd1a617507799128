"""Selections: they choose which of a model's parameters are late-phase weights (φ).

A selection is a list of rules, and ``+`` makes the union of two selections. Every rule must match a parameter. Otherwise a misspelt
name or a forgotten layer would silently turn late-phase learning into plain gradient accumulation.

Strings work, too: ``"layer4.*"`` means ``by_name("layer4.*")``, and ``"type:LayerNorm"`` selects modules by their class name.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn

TYPE = "type:"


class Rule(NamedTuple):
    """One way of picking parameters.

    Attributes:
        spelling: names the rule in messages.
        pick: returns the full names of a model's parameters that the rule matches.
        pattern: the user's pattern, if messages can suggest names that are close to it.
    """

    spelling: str
    pick: Callable[[nn.Module], Iterable[str]]
    pattern: str | None = None

    def cure(self, model: nn.Module) -> str:
        """Returns advice for a rule that matches nothing, with names in the model that the user may have meant."""
        known = "choose from the names in model.named_parameters()."
        if self.pattern is None:
            return known
        names = [name for name, _ in [*model.named_modules(), *model.named_parameters()] if name]
        if self.pattern.startswith(TYPE):
            names = [_classes(module)[0] for module in model.modules() if _classes(module)]
            known = "choose from the classes of model.modules()."
        found = difflib.get_close_matches(self.pattern.removeprefix(TYPE).strip("*?."), list(dict.fromkeys(names)), 3)
        return f"did you mean {' or '.join(found)}? Or {known}" if found else known


class Selection:
    """A union of rules, which :meth:`names` applies to a model."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules

    @classmethod
    def of(cls, select: Selection | str | Sequence[str]) -> Selection:
        """Returns a selection as it is, and makes one from a string or several strings.

        Raises:
            TypeError: ``select`` is something else.
        """
        if isinstance(select, Selection):
            return select
        patterns = [select] if isinstance(select, str) else select
        if not isinstance(patterns, Sequence) or not all(isinstance(pattern, str) for pattern in patterns):
            raise TypeError(
                f"select is of type {type(select).__name__}: pass a selection such as batchnorm() + head(), or strings such as "
                "'layer4.*' and 'type:LayerNorm'."
            )
        return cls(*(rule for pattern in patterns for rule in by_name(pattern).rules))

    def __add__(self, other: Selection) -> Selection:
        if not isinstance(other, Selection):
            return NotImplemented
        return Selection(*self.rules, *other.rules)

    def __repr__(self) -> str:
        return " + ".join(rule.spelling for rule in self.rules) or "nothing()"

    def names(self, model: nn.Module) -> list[str]:
        """Returns the full names of the selected parameters in the model's order. A tied parameter has its first name.

        Raises:
            ValueError: a rule matches no parameter, or a selected parameter is frozen.
        """
        parameters = dict(model.named_parameters(remove_duplicate=False))
        selected: set[int] = set()
        for rule in self.rules:
            picked = set(rule.pick(model))
            if not picked:
                raise ValueError(f"{rule.spelling} matches no parameter of {type(model).__name__}: {rule.cure(model)}")
            selected |= {id(parameters[name]) for name in picked}
        names = [name for name, parameter in model.named_parameters() if id(parameter) in selected]
        for name in names:
            if not parameters[name].requires_grad:
                raise ValueError(f"late-phase weight {name} is frozen: call requires_grad_(True) on it or leave it out of {self}.")
        return names


def by_predicate(predicate: Callable[[str, nn.Parameter], bool]) -> Selection:
    """Selects parameters for which ``predicate(full_name, parameter)`` is true."""

    def pick(model: nn.Module) -> list[str]:
        return [name for name, parameter in model.named_parameters() if predicate(name, parameter)]

    return Selection(Rule(f"by_predicate({getattr(predicate, '__name__', predicate)})", pick))


def by_name(*patterns: str) -> Selection:
    """Selects parameters whose own name, or an enclosing module's name, matches a pattern; ``*`` and ``?`` work as in a shell.

    A pattern that starts with ``type:`` is matched against class names. It selects all parameters of modules of such a class or of
    a subclass.
    """

    def rule(pattern: str) -> Rule:
        def pick(model: nn.Module) -> list[str]:
            names = (name for name, _ in model.named_parameters(remove_duplicate=False))
            return [name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]

        def pick_type(model: nn.Module) -> list[str]:
            wanted = pattern.removeprefix(TYPE)
            return _parameters_of(model, lambda _, module: any(fnmatchcase(name, wanted) for name in _classes(module)))

        return Rule(f"by_name({pattern!r})", pick_type if pattern.startswith(TYPE) else pick, pattern)

    return Selection(*map(rule, patterns))


def _classes(module: nn.Module) -> list[str]:
    """Returns the names of the module's class and its base classes that derive from ``nn.Module``, which is left out."""
    return [kind.__name__ for kind in type(module).__mro__ if issubclass(kind, nn.Module) and kind is not nn.Module]


def _parameters_of(model: nn.Module, is_selected: Callable[[str, nn.Module], bool]) -> list[str]:
    """Returns the full names of all parameters inside modules for which ``is_selected(name, module)`` is true."""
    return [
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if is_selected(prefix, module)
        for name, _ in module.named_parameters(remove_duplicate=False)
    ]


def by_type(*types: type[nn.Module]) -> Selection:
    """Selects all parameters inside modules of these types, those of nested modules included."""
    spelling = f"by_type({', '.join(t.__name__ for t in types)})"
    return Selection(Rule(spelling, lambda model: _parameters_of(model, lambda _, module: isinstance(module, types))))


def batchnorm() -> Selection:
    """Selects scales and shifts of all BatchNorm layers (Section 2.2, late-phase batch normalization layers)."""
    (rule,) = by_type(nn.modules.batchnorm._BatchNorm).rules
    return Selection(rule._replace(spelling="batchnorm()"))


def layernorm() -> Selection:
    """Selects scales and shifts of layers that normalize each example by itself: classes named ``*LayerNorm`` or ``*RMSNorm``."""

    def is_layernorm(_: str, module: nn.Module) -> bool:
        return any(name.endswith(("LayerNorm", "RMSNorm")) for name in _classes(module))

    return Selection(Rule("layernorm()", lambda model: _parameters_of(model, is_layernorm)))


def head(name: str | None = None) -> Selection:
    """Selects weight and bias of the classification layer: the module called ``name``, or by default the last ``nn.Linear``."""

    def pick(model: nn.Module) -> list[str]:
        linear = [prefix for prefix, module in model.named_modules() if isinstance(module, nn.Linear)]
        target = name if name is not None else next(reversed(linear), None)
        return _parameters_of(model, lambda prefix, _: prefix == target)

    return Selection(Rule("head()" if name is None else f"head({name!r})", pick))


def everything() -> Selection:
    """Selects all parameters that need a gradient: the members are then a deep ensemble, spawned at T0 (Section 3.2)."""
    (rule,) = by_predicate(lambda name, parameter: parameter.requires_grad).rules
    return Selection(rule._replace(spelling="everything()"))


def nothing() -> Selection:
    """Selects no parameter: with K > 1 this is plain gradient accumulation (Table 10), with K = 1 plain training."""
    return Selection()
