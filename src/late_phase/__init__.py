"""Neural networks with late-phase weights (von Oswald et al., ICLR 2021).

All names below but ``load`` need no library but torch. torch is imported when one of them is first used, because importing it takes
seconds, and a command line is checked without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from late_phase.export.load import load
    from late_phase.method import LatePhase
    from late_phase.running_statistics import recompute_running_statistics
    from late_phase.selection import Selection, batchnorm, by_name, by_predicate, by_type, everything, head, layernorm, nothing

__all__ = [
    "LatePhase",
    "Selection",
    "batchnorm",
    "by_name",
    "by_predicate",
    "by_type",
    "everything",
    "head",
    "layernorm",
    "load",
    "nothing",
    "recompute_running_statistics",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "load":
        try:
            from late_phase.export.load import load
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"late_phase.load needs {error.name}: pip install 'late-phase[train]'.") from error
        return load
    import late_phase.method
    import late_phase.running_statistics
    import late_phase.selection

    modules = (late_phase.method, late_phase.running_statistics, late_phase.selection)
    return next(vars(module)[name] for module in modules if name in vars(module))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
