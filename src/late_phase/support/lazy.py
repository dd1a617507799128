"""Functions and classes whose modules are imported at their first use. Some, such as torchvision, take seconds to import."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from functools import partial
from typing import Any


class Lazy:
    """A function or class by its full name, such as ``late_phase.data.cifar.load``, with its first arguments if any are given."""

    def __init__(self, name: str, *arguments: Any) -> None:
        self.name = name
        self.arguments = arguments

    def resolve(self) -> Callable[..., Any]:
        """Imports the module, and returns the function or class itself."""
        function = pkgutil.resolve_name(self.name)
        return partial(function, *self.arguments) if self.arguments else function

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.resolve()(*arguments, **options)
