"""How well a score tells out-of-distribution (OOD) examples from in-distribution ones.

OOD is the positive class, and a higher score means OOD. Examples with the same score are on the same side of every threshold, so
the order of examples doesn't matter for ties.
"""

from __future__ import annotations

import torch
from torch import Tensor

from late_phase.ensemble import ensemble_log_probs
from late_phase.evaluation.metrics import entropy


def ood_scores(log_probs: Tensor) -> Tensor:
    """Returns the entropy of the members' mean prediction, in nats: ``[members, examples, classes]`` -> ``[examples]``."""
    return entropy(ensemble_log_probs(log_probs))


def ood_metrics(in_scores: Tensor, out_scores: Tensor) -> dict[str, float]:
    """Returns AUROC, AUPR and FPR95 of scores ``[examples]`` in and out of distribution, each 0 to 1.

    ``auroc``: probability that an OOD example has a higher score than an in-distribution one, where ties count half (Mann-Whitney).
    ``aupr``: average precision Σ_t (recall_t − recall_t−1) precision_t over the distinct scores t as thresholds, from the highest
    one down, without interpolation. By chance it is the share of OOD examples.
    ``fpr95``: share of in-distribution examples with score ≥ t, where t is the highest score that at least 95 % of the OOD
    examples reach.

    Raises:
        ValueError: one of the sets is empty or has a score that is not a number.
    """
    for name, scores in (("in-distribution", in_scores), ("out-of-distribution", out_scores)):
        if not len(scores):
            raise ValueError(f"there are no {name} scores: detection needs at least one example of each kind.")
        if scores.isnan().any():
            raise ValueError(f"{int(scores.isnan().sum())} {name} scores are not a number: check the predictions.")
    positives, negatives = _counts(in_scores, out_scores)
    tp, fp = positives.cumsum(0), negatives.cumsum(0)
    recall = tp.double() / len(out_scores)
    # The sum counts halves of pairs, which are integers, so it is exact.
    wins = (negatives * (2 * tp - positives)).sum().item()
    return {
        "auroc": wins / (2 * len(in_scores) * len(out_scores)),
        "aupr": (positives.double() / len(out_scores) * tp / (tp + fp)).sum().item(),
        "fpr95": fp[(recall < 0.95).sum()].item() / len(in_scores),
    }


def _counts(in_scores: Tensor, out_scores: Tensor) -> tuple[Tensor, Tensor]:
    """Counts the OOD and the in-distribution examples with each distinct score, from the highest one down."""
    distinct, index = torch.cat((out_scores, in_scores)).unique(return_inverse=True)
    counts = (torch.bincount(part, minlength=len(distinct)).flip(0) for part in index.tensor_split([len(out_scores)]))
    positives, negatives = counts
    return positives, negatives
