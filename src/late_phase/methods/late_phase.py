"""Late-phase learning in a run: the choices of late-phase weights, their training, export and predictors.

The method itself is :class:`late_phase.LatePhase`. Plain training is a special case with one member and no late-phase weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from late_phase.checks import MINIBATCHES
from late_phase.config.check import copies
from late_phase.config.choices import options, register
from late_phase.config.training import TrainConfig
from late_phase.methods.exported import WeightFiles, Weights
from late_phase.methods.interface import Method, Trained, due
from late_phase.methods.late_phase_config import (
    AccumulationConfig,
    HeadConfig,
    HypernetworkConfig,
    LatePhaseConfig,
    NoneConfig,
    Rank1Config,
    SelectConfig,
)
from late_phase.support.errors import UserError
from late_phase.support.lazy import Lazy
from late_phase.support.memory import NUMBER, OBJECT, check_memory

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from late_phase.evaluation.predictors import Predictor
    from late_phase.method import LatePhase
    from late_phase.selection import Selection


class LatePhaseMethod(Method):
    """Late-phase learning. Its predictors are ``single``, the average of the members (Eq. 1), and ``ensemble``, the members.

    Args:
        select: makes the selection of the late-phase weights. ``late_phase.head`` adds the last layer to it.
        prepare: adds the late-phase weights to a plain model, as parametrizations of its weights. It is called with the choice's
            own keys and with ``generator``.
        optimizer_options: the optimizer's options for the late-phase weights.
    """

    def __init__(
        self,
        config: TrainConfig,
        select: Callable[[], Selection] | None = None,
        prepare: Callable[..., None] | None = None,
        optimizer_options: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(config)
        self._select, self._prepare, self._options = select, prepare, dict(optimizer_options or {})

    def select(self) -> Selection:
        """Returns the selection of the late-phase weights, without the last layer that ``late_phase.head`` adds."""
        from late_phase.selection import nothing

        return nothing() if self._select is None else self._select()

    # Before training.

    def multiples(self) -> dict[str, int]:
        settings = self.config.late_phase
        reached = settings.reached(self.config.epochs) is not None
        return {"late_phase.parallel_members": settings.parallel_members if reached else 1}

    def parametrize(self, model: nn.Module) -> None:
        from late_phase.support.seeding import generator

        if self._prepare is not None:
            own = options(self.config.late_phase, LatePhaseConfig)
            self._prepare(model, **own, generator=generator(self.config.seed, "late-phase model"))

    def parameter_options(self) -> list[tuple[Selection, dict[str, float]]]:
        return [(self.select(), self._options)] if self._options else []

    def optimizer(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> LatePhase:
        import torch.distributed as dist

        from late_phase.method import LatePhase
        from late_phase.selection import head, nothing

        settings = self.config.late_phase
        group = dist.group.WORLD if dist.is_initialized() else None  # of the processes that torchrun has started
        divide = MINIBATCHES if settings.reached(self.config.epochs) is None else settings.divide
        select = self.select() + (head() if settings.head else nothing())
        phi_options = {} if settings.weight_decay is None else {"weight_decay": settings.weight_decay}
        rest = (settings.gamma_theta, phi_options, settings.pull, settings.outer, group, divide)
        return LatePhase(model, optimizer, select, settings.K, settings.sigma0, *rest)

    def check(self, late: LatePhase, minibatches: int) -> None:
        """Checks that there is at least one iteration after T0, and that the memory is large enough for the members."""
        from late_phase.running_statistics import running_statistics

        settings = self.config.late_phase
        left = 0 if settings.T0 is None else (self.config.epochs - settings.T0) * minibatches
        if settings.gamma_theta > 0 and 0 < left < settings.K:
            raise UserError(
                f"late_phase.K={settings.K} is more than the {left} minibatches after T0, so the base weights would never move: "
                "choose a smaller K or an earlier late_phase.T0."
            )
        if left > 0:
            parameters, statistics = dict(late.model.named_parameters()), running_statistics(late.model)
            phi = sum(parameters[name].numel() for name in late.phi)
            numbers = phi * (copies(self.config) - settings.copies - 2) + sum(value.numel() for value in statistics.values())
            tensors = 1 + (1 + self.config.optimizer.copies) * len(late.phi) + len(statistics)
            needed = settings.K * (NUMBER * numbers + OBJECT * tensors)
            check_memory(f"late_phase.K={settings.K}", needed, "choose a smaller one, or fewer late-phase weights.")

    # In training.

    def before_epoch(self, trained: Trained, epoch: int) -> None:
        from late_phase.support.seeding import generator

        settings = self.config.late_phase
        if epoch == settings.T0 and not trained.late.spawned:
            trained.late.spawn(generator(self.config.seed, "members"), settings.copy_state)
            if settings.theta_weight_decay is not None:
                self.decay_theta(trained.late, settings.theta_weight_decay)

    def decay_theta(self, late: LatePhase, weight_decay: float) -> None:
        """Gives all base weights that decay another weight decay."""
        phi = {parameter for name, parameter in late.model.named_parameters() if name in late.phi}
        for group in late.param_groups:
            if group["weight_decay"] == self.config.optimizer.weight_decay and phi.isdisjoint(group["params"]):
                group["weight_decay"] = weight_decay

    def measured(self, trained: Trained, epoch: int) -> dict[str, nn.Module | None]:
        wanted = epoch == self.config.epochs or due(epoch, self.config.runtime.evaluate_every)
        return {"": self.single_model(trained) if wanted else None}

    def single_model(self, trained: Trained) -> nn.Module:
        """Returns the single model (Eq. 1), parametrized as in training."""
        choice = self.config.late_phase.running_statistics
        with trained.autocast():
            return trained.late.average(choice, trained.spare_batches() if choice == "recompute" else None)

    # Afterwards.

    def export(self, trained: Trained, folder: Path, encoding: str) -> None:
        WeightFiles(folder).write(self.single_model(trained), member_weights(trained.late), encoding)

    @staticmethod
    def files(folder: Path) -> list[Path]:
        return WeightFiles(folder).all()

    def predictors_with(self, weights: Weights) -> dict[str, Predictor]:
        from safetensors.torch import load_file

        from late_phase.evaluation.predictors import members
        from late_phase.weights import load

        settings = self.config.late_phase
        if not weights.members or settings.reached(self.config.epochs) is None or not settings.has_weights:
            return {}
        base = weights.model
        if weights.files.base.exists():
            base = weights.build()
            self.parametrize(base)
            load(base, load_file(weights.files.base)).to(weights.device)
        return {"ensemble": members(base, load_file(weights.files.members, str(weights.device)))}


def member_weights(late: LatePhase) -> dict[str, Tensor]:
    """Returns Φ and all running statistics, shared ones included: name -> ``[K, ...]``. Empty if there are no members."""
    import torch

    from late_phase.running_statistics import running_statistics

    members = late.members
    if not members:
        return {}
    shared = {name: value for name, value in running_statistics(late.model).items() if name not in members}
    return members | {name: torch.stack([value] * late.K) for name, value in shared.items()}


class SelectedWeights(LatePhaseMethod):
    """Late-phase weights that ``late_phase.select`` names, by the names of parameters or the classes of modules."""

    def select(self) -> Selection:
        from late_phase.selection import Selection

        return Selection.of(list(self.config.late_phase.select))


def register_weights(name: str, config: type[LatePhaseConfig], select: str | None = None, **parts: Any) -> None:
    """Registers ``late_phase=NAME``.

    Args:
        select, parts: arguments of :class:`LatePhaseMethod`. A function is given by its full name and imported when it is used.
    """
    lazy = {key: Lazy(value) if isinstance(value, str) else value for key, value in {"select": select, **parts}.items()}
    register("late_phase", name, config, partial(LatePhaseMethod, **lazy))


register_weights("none", NoneConfig)
register_weights("accumulation", AccumulationConfig)
register_weights("batchnorm", LatePhaseConfig, "late_phase.selection.batchnorm")
register_weights("layernorm", LatePhaseConfig, "late_phase.selection.layernorm")
register_weights("full", LatePhaseConfig, "late_phase.selection.everything")
register_weights("head", HeadConfig)
register("late_phase", "select", SelectConfig, SelectedWeights)
register_weights(
    "hypernetwork",
    HypernetworkConfig,
    "late_phase.layers.hypernetwork.embeddings",
    prepare="late_phase.layers.hypernetwork.generate_convolutions",
    optimizer_options={"weight_decay": 0.0},
)
register_weights("rank1", Rank1Config, "late_phase.layers.rank1.rank1", prepare="late_phase.layers.rank1.parametrize_rank1")
register_weights("adapters", Rank1Config, "late_phase.layers.rank1.adapters", prepare="late_phase.layers.rank1.parametrize_rank1")
