"""Functions and classes whose modules are imported when they are used: torchvision, for one, takes seconds to import."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from functools import partial
from typing import Any


class Lazy:
    """A function or class by its whole name, such as ``late_phase.data.cifar.load``, with its first arguments if any are given."""

    def __init__(self, name: str, *arguments: Any) -> None:
        self.name = name
        self.arguments = arguments

    def resolve(self) -> Callable[..., Any]:
        """The function or class itself; imports its module."""
        function = pkgutil.resolve_name(self.name)
        return partial(function, *self.arguments) if self.arguments else function

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.resolve()(*arguments, **options)
