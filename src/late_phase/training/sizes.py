"""What of a run doesn't fit into the memory, refused before it is taken: the model, its ensembles and averages, and a minibatch.

Counted is what grows with the keys of the config, in single precision. It goes through this machine's memory also where the model
is on another device, in checkpoints and when weights are exported; all but the minibatch.
"""

from __future__ import annotations

from torch import nn

from late_phase import architectures
from late_phase.method import LatePhase
from late_phase.running_statistics import running_statistics
from late_phase.support.memory import check_memory
from late_phase.training.config import AdamConfig, BatchEnsembleConfig, SWAGConfig, TrainConfig

NUMBER = 4
"""Bytes of a number."""

OBJECT = 2**10
"""Bytes that a member takes for each of its tensors, whatever the tensor's size."""


def check_size(name: str, sizes: tuple[int, ...], options: dict[str, float], copies: int) -> None:
    """Refuses an architecture if ``copies`` of its weights don't fit into the memory.

    Raises:
        UserError: they don't.
    """
    count = architectures.parameters(name, *sizes, **options)
    own = "".join(f", {key}={value}" for key, value in options.items() if value is not None)
    check_memory(f"architecture={name}{own} with {count:,} parameters", NUMBER * copies * count, "choose smaller sizes.")


def copies(config: TrainConfig) -> int:
    """How often training holds what is as large as the weights: weights, gradients, the optimizer's state, the single model, and
    with averaging the mean."""
    return 3 + _states(config) + (config.averaging.name != "none")


def check_ensemble(config: TrainConfig, model: nn.Module) -> None:
    """Refuses an ensemble within the plain ``model`` whose fast weights and biases don't fit into the memory.

    Raises:
        UserError: they don't.
    """
    if isinstance(config.ensemble, BatchEnsembleConfig):
        layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        numbers = sum(sum(layer.weight.shape[:2]) + (0 if layer.bias is None else len(layer.bias)) for layer in layers)
        needed = NUMBER * copies(config) * config.ensemble.K * numbers
        check_memory(f"ensemble.K={config.ensemble.K}", needed, "choose a smaller one.")


def check_growth(config: TrainConfig, late: LatePhase) -> None:
    """Refuses late-phase members that won't fit into the memory at T0, or SWAG's deviations that won't at the end.

    Raises:
        UserError: they won't.
    """
    parameters, statistics = dict(late.model.named_parameters()), running_statistics(late.model)
    phi = sum(parameters[name].numel() for name in late.phi)
    if config.late_phase.T0 is not None and config.epochs > config.late_phase.T0:
        numbers = phi * (copies(config) - 2) + sum(value.numel() for value in statistics.values())
        tensors = 1 + (1 + _states(config)) * len(late.phi) + len(statistics)
        needed = config.late_phase.K * (NUMBER * numbers + OBJECT * tensors)
        check_memory(f"late_phase.K={config.late_phase.K}", needed, "choose a smaller one, or fewer late-phase weights.")
    if isinstance(config.averaging, SWAGConfig):
        deviations = min(config.averaging.rank, config.epochs - config.averaging.start)
        needed = NUMBER * (copies(config) + 1 + deviations) * sum(value.numel() for value in parameters.values())
        check_memory(f"averaging.rank={config.averaging.rank}", needed, "choose a smaller one.")


def check_minibatch(config: TrainConfig, activations: int) -> None:
    """Refuses minibatches whose activations don't fit into the memory, ``activations`` being the numbers of one example.

    Raises:
        UserError: they don't.
    """
    models = config.ensemble.K if isinstance(config.ensemble, BatchEnsembleConfig) else 1
    ensemble = f" with ensemble.K={models}" if models > 1 else ""
    needed = NUMBER * models * config.batch_size * activations
    check_memory(f"batch_size={config.batch_size}{ensemble}", needed, "choose a smaller one.")


def _states(config: TrainConfig) -> int:
    """Numbers that the optimizer keeps for each weight."""
    return 2 if isinstance(config.optimizer, AdamConfig) else 1
