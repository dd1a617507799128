"""Predict once, measure many: log-probabilities of the single model and of each member, in files."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from late_phase.data.images import Images, Normalization
from late_phase.evaluation.metrics import accuracy, ece, label_log_probs, nll
from late_phase.files import write_tensors
from late_phase.method import ensemble_log_probs
from late_phase.running_statistics import evaluation_mode

Predictor = Callable[[Images], Tensor]
"""Images -> log-probabilities ``[members, examples, classes]`` on the CPU."""

EVALUATION_BATCH_SIZE = 500


@torch.no_grad()
def log_probs(model: nn.Module, images: Images, normalization: Normalization) -> Tensor:
    """The model's log-probabilities ``[examples, classes]`` in eval mode, without augmentation, float32 on the CPU."""
    with evaluation_mode(model):
        batches = images.pixels.split(EVALUATION_BATCH_SIZE)
        return torch.cat([model(normalization(pixels)).float().log_softmax(-1) for pixels in batches]).cpu()


def single_predictor(model: nn.Module, normalization: Normalization) -> Predictor:
    """Predictions of one model, as those of one member."""
    return lambda images: log_probs(model, images, normalization)[None]


def ensemble_predictor(model: nn.Module, members: dict[str, Tensor], normalization: Normalization) -> Predictor:
    """Predictions of each of the K members.

    Args:
        model: one with the members' base weights, such as the single model; it is left as it is.
        members: name of each late-phase weight and running statistic -> ``[K, ...]``.
    """
    model = copy.deepcopy(model)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    K = len(next(iter(members.values())))

    @torch.no_grad()
    def predict(images: Images) -> Tensor:
        predicted = []
        for k in range(K):
            for name, values in members.items():
                tensors[name].copy_(values[k])
            predicted.append(log_probs(model, images, normalization))
        return torch.stack(predicted)

    return predict


def write_predictions(folder: Path, splits: dict[str, Images], predictors: dict[str, Predictor]) -> None:
    """Writes ``<split>.safetensors`` for each split: ``labels`` ``[examples]`` and for each predictor its log-probabilities.

    Those are ``[members, examples, classes]``; of the training images, which are many, the labels' only, ``[members, examples]``.
    Files of other splits are removed.
    """
    for other in folder.glob("*.safetensors"):
        if other.stem not in splits:
            other.unlink()
    for split, images in splits.items():
        labels = images.labels.cpu()
        tensors = {"labels": labels}
        for name, predict in predictors.items():
            predicted = predict(images)
            if split == "train":
                predicted = label_log_probs(predicted, labels)
            tensors[name] = predicted
        write_tensors(folder / f"{split}.safetensors", tensors)


def read_metrics(folder: Path) -> dict[str, dict[str, float]]:
    """Metrics of each predictor from the files of :func:`write_predictions`: accuracy, NLL in nats, ECE, and the training loss."""
    metrics: dict[str, dict[str, float]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        split, tensors = path.stem, load_file(path)
        labels = tensors.pop("labels")
        for name, members in tensors.items():
            predicted = ensemble_log_probs(members)
            row = metrics.setdefault(name, {})
            if split == "train":
                row["train_loss"] = nll(predicted)
            else:
                row[f"{split}_accuracy"] = accuracy(predicted, labels)
                row[f"{split}_nll"] = nll(label_log_probs(predicted, labels))
                row[f"{split}_ece"] = ece(predicted, labels)
    return metrics
