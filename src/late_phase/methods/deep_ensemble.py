"""Deep ensembles (Lakshminarayanan et al., 2017): finished runs of one config that differ in their seeds.

They need no training of their own: ``scripts/evaluate.py run=FOLDER seeds=[0,1,2]`` evaluates finished runs together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from late_phase.config.identity import differences, identity
from late_phase.config.training import TrainConfig
from late_phase.support.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from late_phase.evaluation.predictors import Predictor

OWN_OF_EACH = ("seed", "architecture.weights")
"""Keys in which the runs may differ. Each seed may start from its own weights."""


def find_seeds(path: Path, seeds: Sequence[int] | None) -> list[int] | None:
    """Returns the sorted seeds of runs in ``path/seed=<n>``: the given ones, or all by default. Returns None if ``path`` is a run.

    Raises:
        UserError: a given seed has no run.
    """
    found = sorted(int(folder.name[5:]) for folder in path.glob("seed=*") if folder.name[5:].isdigit())
    if seeds is None and not found:
        return None
    seeds = sorted(set(found if seeds is None else seeds))
    if not seeds or not set(seeds) <= set(found):
        raise UserError(
            f"run={path} has directories seed=<n> for n in {found}, not in {seeds}: choose the folder above them, or other seeds."
        )
    return seeds


def refuse_others(path: Path, first: TrainConfig, other: TrainConfig) -> None:
    """Refuses a run in ``path`` whose config differs from the first run's.

    Raises:
        UserError: the configs differ in more than ``OWN_OF_EACH``.
    """
    changes = differences(identity(first), identity(other))
    if changes := [line for line in changes if line.partition(":")[0] not in OWN_OF_EACH]:
        raise UserError(f"run={path} has runs that differ ({'; '.join(changes)}): choose seeds that were trained alike.")


def folder(path: Path, seeds: Sequence[int]) -> Path:
    """Returns the folder for evaluations of these seeds' runs together."""
    return path / f"seeds={','.join(map(str, seeds))}"


def several(predictors: Sequence[Predictor]) -> Predictor:
    """Returns a predictor with the members of all ``predictors``, one after another. A lone predictor is returned as it is."""

    def models() -> Iterator[nn.Module]:
        for predictor in predictors:
            yield from predictor()

    return models if len(predictors) > 1 else predictors[0]


def together(runs: Sequence[Mapping[str, Predictor]]) -> dict[str, Predictor]:
    """Returns each predictor that all runs have, with its members from all runs; ``single`` then has the runs' single models."""
    return {name: several([run[name] for run in runs]) for name in runs[0] if all(name in run for run in runs)}
