"""The exponential moving average of the weights over epochs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

from late_phase.config.refusals import at_least
from late_phase.methods.exported import WeightFiles
from late_phase.methods.interface import Method
from late_phase.methods.swa import AveragingConfig


@dataclass
class EMAConfig(AveragingConfig):
    copies: ClassVar[int] = 1
    of_an_ensemble: ClassVar[bool] = False

    decay: float = 0.5

    def check(self, config):
        at_least("averaging.decay", self.decay, 0)


class EMA(Method):
    """``ema``: the model with averaged weights, its running statistics re-estimated."""

    mean = None

    def after_epoch(self, trained, epoch):
        weights = {name: value.clone() for name, value in trained.late.weights().items()}
        self.mean = self.mean or weights
        for name, value in weights.items():
            self.mean[name].lerp_(value, 1 - self.config.averaging.decay)

    def state_dict(self):
        return self.mean and {"mean": self.mean}

    def load_state_dict(self, state_dict, device):
        self.mean = {name: value.to(device) for name, value in state_dict["mean"].items()}

    def export(self, trained, folder, encoding):
        from late_phase.running_statistics import recompute_running_statistics
        from late_phase.weights import load

        phi = trained.late.phi
        model = copy.deepcopy(trained.late.model)
        load(model, {name: value.mean(0) if name in phi else value for name, value in self.mean.items()})
        with trained.autocast():
            recompute_running_statistics(model, trained.spare_batches())
        WeightFiles(folder / "ema").write(model, {}, encoding)

    @staticmethod
    def files(folder):
        return WeightFiles(folder / "ema").all()

    def predictors(self, folder, read):
        return {"ema": read(folder / "ema", members=False).predictors["single"]}
