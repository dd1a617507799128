"""Neural networks with late-phase weights (von Oswald et al., ICLR 2021). Importing this package needs torch only."""

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
    "nothing",
    "recompute_running_statistics",
]
