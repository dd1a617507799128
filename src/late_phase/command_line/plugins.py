"""Registers all choices of the config: those of this package and those of plug-ins.

A plug-in is an installed package with an entry point in the group ``late_phase``. The entry point names a module that registers
choices or suites.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from late_phase import architectures, data, methods, suites  # noqa: F401 these modules register their choices
from late_phase.optimization import optimizers, schedules  # noqa: F401 as above
from late_phase.runs import loggers  # noqa: F401 as above
from late_phase.support.errors import UserError, first_line


def load_plugins() -> None:
    """Imports the modules of all plug-ins. It may be called several times.

    Raises:
        UserError: a plug-in can't be imported.
    """
    for plugin in entry_points(group="late_phase"):
        try:
            plugin.load()
        except Exception as error:  # other people's modules may raise anything
            raise UserError(
                f"the plug-in {plugin.name}={plugin.value} can't be loaded ({type(error).__name__}: {first_line(error)}): "
                "fix it, or uninstall its package."
            ) from error
