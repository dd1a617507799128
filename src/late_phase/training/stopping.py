"""Early stopping: ends training when the single model has stopped improving, and returns to its best epoch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

from late_phase.config.training import TrainConfig


class EarlyStopping:
    """Chooses the epoch after which the single model is best on the validation part, and ends training ``patience`` epochs later.

    The validation measurement is the first of the task: NLL, RMSE or bits per character, so lower is better. Epochs count the data
    that were consumed. Only epochs after T0 and after the start of an averaging can be chosen, because earlier ones lack the
    members or the average. Everything that a run exports comes from the chosen epoch: the single model, the members and averages.

    Args:
        config: the run's config. Without ``patience`` nothing is chosen, and training takes all epochs.
        measurement: name of the measurement in a row of ``history.csv``.
    """

    def __init__(self, config: TrainConfig, measurement: str | None) -> None:
        self.patience, self.measurement = config.patience, measurement
        start = 0 if config.averaging.name == "none" else config.averaging.start or 0
        self.first = max(config.late_phase.reached(config.epochs) or 0, start)
        self.best: dict[str, Any] | None = None

    def ends(self, epoch: int) -> bool:
        """Tells whether training ends after ``epoch`` epochs."""
        return self.best is not None and epoch - self.best["epoch"] >= self.patience

    def consider(self, row: Mapping[str, Any], weights: Callable[[], dict[str, Any]]) -> None:
        """Compares an epoch with the best one so far.

        Args:
            row: the row of ``history.csv`` of the epoch.
            weights: returns all that has to be restored if this epoch is chosen.
        """
        if self.patience is None or row["epoch"] <= self.first or not math.isfinite(row[self.measurement]):
            return
        if self.best is None or row[self.measurement] < self.best["value"]:
            self.best = {"epoch": row["epoch"], "value": row[self.measurement], "weights": copy.deepcopy(weights())}

    def state_dict(self) -> dict[str, Any] | None:
        return self.best

    def load_state_dict(self, state_dict: dict[str, Any] | None) -> None:
        self.best = state_dict
