"""Checks the config of a run before any work."""

from __future__ import annotations

from late_phase.config.choices import CHOICES
from late_phase.config.refusals import at_least, one_of, seed
from late_phase.config.training import TrainConfig
from late_phase.support.errors import UserError


def check(config: TrainConfig) -> TrainConfig:
    """Refuses values that can't work. What depends on the data is checked when the data is loaded.

    Raises:
        UserError: names the key, the value and the cure.
    """
    for group, choices in CHOICES.items():
        chosen = getattr(config, group)
        one_of(f"{group}.name", chosen.name, tuple(choices))
        if not isinstance(chosen, choices[chosen.name].config):
            raise UserError(f"{group}.name can't be set by itself: choose the whole group with {group}={chosen.name}.")
    at_least("epochs", config.epochs, 1)
    at_least("batch_size", config.batch_size, 1)
    at_least("patience", config.patience, 1)
    if config.patience is not None and config.runtime.evaluate_every != 1:
        raise UserError(
            f"runtime.evaluate_every={config.runtime.evaluate_every} doesn't measure each epoch, which patience={config.patience} "
            "needs: set it to 1."
        )
    seed("seed", config.seed)
    config.compute.check()
    if config.max_grad_norm is not None and not 0 < config.max_grad_norm < float("inf"):
        raise UserError(f"max_grad_norm={config.max_grad_norm} is out of range: choose a number above 0, or null for no clipping.")
    config.runtime.check()
    for group in CHOICES:
        getattr(config, group).check(config)
    return config


def copies(config: TrainConfig) -> int:
    """Returns how many tensors as large as all weights training holds.

    These are the weights, the gradients, the single model, and what the choices keep, such as optimizer states and averages. Early
    stopping has all of it twice but for gradients and the single model.
    """
    kept = sum(getattr(config, group).copies for group in CHOICES)
    return 3 + kept + (0 if config.patience is None else 1 + kept)
