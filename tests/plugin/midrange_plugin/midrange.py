"""The middle between the smallest and the largest value of each weight over epochs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

from late_phase.config.refusals import at_least
from late_phase.methods.averaging import AveragingConfig
from late_phase.methods.exported import WeightFiles
from late_phase.methods.interface import Method


@dataclass
class MidrangeConfig(AveragingConfig):
    copies: ClassVar[int] = 2
    of_an_ensemble: ClassVar[bool] = False

    place: float = 0.5

    def check(self, config):
        at_least("averaging.place", self.place, 0)


class Midrange(Method):
    """``midrange``: the model with weights in the middle of their range, its running statistics re-estimated."""

    low = high = None

    def after_epoch(self, trained, epoch):
        weights = {name: value.clone() for name, value in trained.late.weights().items()}
        low, high = self.low or weights, self.high or weights
        self.low = {name: value.minimum(low[name]) for name, value in weights.items()}
        self.high = {name: value.maximum(high[name]) for name, value in weights.items()}

    def state_dict(self):
        return self.low and {"low": self.low, "high": self.high}

    def load_state_dict(self, state_dict, device):
        self.low, self.high = ({name: value.to(device) for name, value in state_dict[key].items()} for key in ("low", "high"))

    def export(self, trained, folder, encoding):
        from late_phase.running_statistics import recompute_running_statistics
        from late_phase.weights import load

        phi, place = trained.late.phi, self.config.averaging.place
        model = copy.deepcopy(trained.late.model)
        middle = {name: value.lerp(self.high[name], place) for name, value in self.low.items()}
        load(model, {name: value.mean(0) if name in phi else value for name, value in middle.items()})
        with trained.autocast():
            recompute_running_statistics(model, trained.spare_batches())
        WeightFiles(folder / "midrange").write(model, {}, encoding)

    @staticmethod
    def files(folder):
        return WeightFiles(folder / "midrange").all()

    def predictors(self, folder, read):
        return {"midrange": read(folder / "midrange", members=False).predictors["single"]}
