"""How sure models are."""

from __future__ import annotations

from late_phase.ensemble import ensemble_log_probs


def confidence(models, config):
    """Mean probability of the likeliest class on the test images."""
    predictions, _ = models.task.test_predictions(models)
    numbers = {
        name: {"confidence": ensemble_log_probs(members).exp().amax(-1).mean().item()} for name, members in predictions.items()
    }
    return numbers, models.task.amount()
