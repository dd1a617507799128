"""SWA-Gaussian (Maddox et al., 2019)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from omegaconf import MISSING

from late_phase.config.check import copies
from late_phase.config.choices import register
from late_phase.config.refusals import at_least
from late_phase.config.training import TrainConfig
from late_phase.methods.averaging import AverageConfig
from late_phase.methods.exported import Weights
from late_phase.methods.interface import Trained
from late_phase.methods.swa import SWA, SWAMethod
from late_phase.support.errors import UserError
from late_phase.support.memory import NUMBER, check_memory

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from late_phase.evaluation.predictors import Predictor
    from late_phase.method import LatePhase

PARTS = ("mean", "squares", "deviations", "statistics")
"""Parts of the exported file: the Gaussian, and the running statistics that were re-estimated for each of its samples."""


@dataclass
class SWAGConfig(AverageConfig):
    of_an_ensemble: ClassVar[bool] = False

    rank: int = MISSING
    samples: int = MISSING
    scale: float = MISSING

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        for key, lowest in (("rank", 2), ("samples", 1), ("scale", 0)):
            at_least(f"averaging.{key}", getattr(self, key), lowest)
        if config.late_phase.has_weights:
            raise UserError(
                f"averaging=swag is a Gaussian over the weights of one model: choose averaging=swa with "
                f"late_phase={config.late_phase.name}, or late_phase=none."
            )


class SWAG(SWA):
    """A Gaussian over weights, fitted to the weights that it was given. It has SWA's mean.

    Its covariance at scale 1 is diag(σ²) + D Dᵀ / (n - 1). σ² is the variance of each weight over all updates. The n columns of D
    are the deviations of the last n weights, at most ``rank``, from the mean at the time of their update. All weights form one
    vector, so they share the low-rank part's random numbers.

    Args:
        rank: number of deviations that are kept. The paper's code has 20.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.squares: dict[str, Tensor] = {}
        self.deviations: dict[str, Tensor] = {}

    def update(self, weights: Mapping[str, Tensor]) -> None:
        import torch

        column = self.count % self.rank
        super().update(weights)
        if self.count == 1:
            self.squares = {name: value.square() for name, value in weights.items()}
            self.deviations = {name: value.new_empty(0, *value.shape) for name, value in weights.items()}
        for name, value in weights.items():
            self.squares[name].lerp_(value.square(), 1 / self.count)
            deviation = value - self.mean[name]
            if self.count <= self.rank:
                self.deviations[name] = torch.cat((self.deviations[name], deviation[None]))
            else:
                self.deviations[name][column] = deviation

    def sample(self, scale: float, generator: torch.Generator) -> dict[str, Tensor]:
        """Returns weights drawn from the Gaussian, with the covariance multiplied by ``scale``.

        The paper's code has a scale of 0.5, which halves both parts of the covariance.

        Raises:
            RuntimeError: there was no update.
        """
        import torch

        if not self.count:
            raise RuntimeError("SWAG has no weights to sample from: call update() before sample().")
        n = min(self.count, self.rank)
        z = torch.randn(n, generator=generator, device=generator.device)
        sample = {}
        for name, mean in self.mean.items():
            noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(mean)
            # Rounding can make the difference slightly negative.
            diagonal = (self.squares[name] - mean.square()).clamp(min=0).sqrt() * noise
            low_rank = torch.tensordot(z.to(mean), self.deviations[name], dims=1) / max(n - 1, 1) ** 0.5
            sample[name] = mean + scale**0.5 * (diagonal + low_rank)
        return sample


class SWAGMethod(SWAMethod):
    """SWAG. Its predictors are ``swag``, models with weights drawn from the Gaussian, and ``swa``, the model with its mean."""

    def empty(self) -> SWAG:
        return SWAG(self.config.averaging.rank)

    def check(self, late: LatePhase, minibatches: int) -> None:
        """Checks that the memory is large enough for the deviations at the end of training."""
        settings = self.config.averaging
        deviations = min(settings.rank, self.config.epochs - settings.start)
        needed = NUMBER * (copies(self.config) + 1 + deviations) * sum(value.numel() for value in late.model.parameters())
        check_memory(f"averaging.rank={settings.rank}", needed, "choose a smaller one.")

    def export(self, trained: Trained, folder: Path, encoding: str) -> None:
        import torch

        from late_phase.running_statistics import recompute_for_each
        from late_phase.support.files import write_tensors

        super().export(trained, folder, encoding)
        with trained.autocast():
            model = copy.deepcopy(trained.late.model)
            statistics = recompute_for_each(model, self.samples(self.average), trained.spare_batches)
        parts = vars(self.average) | {"statistics": statistics}
        named = {f"{part}/{name}": value for part in PARTS for name, value in parts[part].items()}
        write_tensors(file(folder), named | {"count": torch.tensor(self.average.count)})

    @staticmethod
    def files(folder: Path) -> list[Path]:
        return [*SWAMethod.files(folder), file(folder)]

    def predictors(self, folder: Path, read: Callable[..., Weights]) -> dict[str, Predictor]:
        from safetensors.torch import load_file

        weights = read(folder / "swa")
        stored = load_file(file(folder), str(weights.device))
        posterior, parts = self.empty(), {part: {} for part in PARTS}
        posterior.count = int(stored.pop("count"))
        for key, value in stored.items():
            part, _, name = key.partition("/")
            parts[part][name] = value
        posterior.mean, posterior.squares, posterior.deviations = (parts[part] for part in PARTS[:3])
        samples = range(self.config.averaging.samples)
        statistics = [{name: value[i] for name, value in parts["statistics"].items()} for i in samples]
        drawn = swag(weights.model, lambda: self.samples(posterior), statistics)
        return self.predictors_of_average(weights) | {"swag": drawn}

    def samples(self, posterior: SWAG) -> Iterator[dict[str, Tensor]]:
        """Yields the samples' weights, which are the same each time."""
        settings = self.config.averaging
        return swag_weights(posterior, settings.samples, settings.scale, self.config.seed)


def file(folder: Path) -> Path:
    return folder / "swag.safetensors"


def swag_weights(posterior: SWAG, samples: int, scale: float, seed: int) -> Iterator[dict[str, Tensor]]:
    """Yields the samples' weights, which are the same for the same seed."""
    from late_phase.support.seeding import generator

    for sample in range(samples):
        yield posterior.sample(scale, generator(seed, "swag", sample))


def swag(
    model: nn.Module, weights: Callable[[], Iterator[dict[str, Tensor]]], statistics: Sequence[dict[str, Tensor]]
) -> Predictor:
    """Returns a predictor: a copy of the model that takes each sample's weights and running statistics in turn.

    Args:
        weights: starts an iteration over the samples' weights. All samples together may not fit into the memory.
        statistics: for each sample, name -> value of the running statistics that were re-estimated for it.
    """
    from late_phase.weights import load

    model = copy.deepcopy(model).eval()

    def models() -> Iterator[nn.Module]:
        for sample, own in zip(weights(), statistics, strict=True):
            yield load(model, sample | own)

    return models


register("averaging", "swag", SWAGConfig, SWAGMethod)
