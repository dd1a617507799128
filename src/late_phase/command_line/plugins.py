"""All choices of the config: this package's, and those of plug-ins.

A plug-in is any installed package with an entry point in the group ``late_phase``, a module that registers choices or suites.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from late_phase import architectures, data, methods, suites  # noqa: F401 they register theirs
from late_phase.optimization import optimizers, schedules  # noqa: F401 as above
from late_phase.runs import loggers  # noqa: F401 as above
from late_phase.support.errors import UserError, first_line


def load_plugins() -> None:
    """Imports the modules of all plug-ins; doing it again does no harm.

    Raises:
        UserError: one of them can't be imported.
    """
    for plugin in entry_points(group="late_phase"):
        try:
            plugin.load()
        except Exception as error:  # whatever a module of someone else's raises
            raise UserError(
                f"the plug-in {plugin.name}={plugin.value} can't be loaded ({type(error).__name__}: {first_line(error)}): "
                "mend it, or uninstall its package."
            ) from error
