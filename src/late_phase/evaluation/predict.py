"""Predict once, measure many times: writes each predictor's log-probabilities to files, and computes metrics from them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from late_phase.data.images import Images, Normalization
from late_phase.ensemble import ensemble_log_probs
from late_phase.evaluation.metrics import classification_metrics, label_log_probs, nll
from late_phase.evaluation.predictors import Predictor, predict_parts
from late_phase.support.digests import digest
from late_phase.support.files import write_tensors

EVALUATION_BATCH_SIZE = 500


@torch.no_grad()
def log_probs(model: nn.Module, images: Images, normalization: Normalization) -> Tensor:
    """Returns the model's log-probabilities ``[examples, classes]``, float32 on the CPU.

    The model stays in its mode, and images are not augmented.
    """
    batches = images.batches(EVALUATION_BATCH_SIZE)
    return torch.cat([model(normalization(batch.pixels)).float().log_softmax(-1).cpu() for batch in batches])


def predict(predictor: Predictor, splits: Mapping[str, Images], normalization: Normalization, seed: int = 0) -> dict[str, Tensor]:
    """Returns log-probabilities ``[members, examples, classes]`` of each split.

    Args:
        seed: see :func:`late_phase.evaluation.predictors.predict_parts`.
    """
    return predict_parts(predictor, splits, partial(log_probs, normalization=normalization), seed)


def write_predictions(
    folder: Path,
    splits: Mapping[str, Images],
    predictors: Mapping[str, Predictor],
    normalization: Normalization,
    seed: int = 0,
    content: str = "",
) -> None:
    """Writes ``<split>.safetensors`` for each split: ``labels`` ``[examples]``, and each predictor's log-probabilities.

    Log-probabilities are ``[members, examples, classes]``. For the training images, which are many, only those of the labels
    are written, ``[members, examples]``. A file that was made from the same content stays as it is.

    Args:
        content: stands for everything besides the images that the predictions depend on.
    """
    contents = {split: content_of(content, predictors, images) for split, images in splits.items()}
    missing = {split: images for split, images in splits.items() if read_content(folder, split) != contents[split]}
    if not missing:
        return
    tensors = {split: {"labels": images.labels.cpu()} for split, images in missing.items()}
    for name, predictor in predictors.items():
        for split, predicted in predict(predictor, missing, normalization, seed).items():
            tensors[split][name] = label_log_probs(predicted, tensors[split]["labels"]) if split == "train" else predicted
    for split, predictions in tensors.items():
        write_tensors(folder / f"{split}.safetensors", predictions, metadata=contents[split])


def content_of(content: str, predictors: Iterable[str], images: Images) -> str:
    """Returns a hash of what a prediction file is made from: ``content``, the names of the predictors, and the images."""
    return digest(content, *predictors, images.fingerprint())


def read_content(folder: Path, split: str) -> str | None:
    """Returns the hash of what a prediction file was made from, as the file says, or None if there is no whole file."""
    try:
        with safe_open(folder / f"{split}.safetensors", "pt") as file:
            return (file.metadata() or {}).get("late_phase")
    except (OSError, SafetensorError):
        return None


def read_predictions(folder: Path, split: str, predictors: Iterable[str]) -> tuple[dict[str, Tensor], Tensor]:
    """Reads the predictors' log-probabilities and the labels from a file of :func:`write_predictions`."""
    tensors = load_file(folder / f"{split}.safetensors")
    return {name: tensors[name] for name in predictors}, tensors["labels"]


def read_metrics(folder: Path, splits: Iterable[str], predictors: Collection[str]) -> dict[str, dict[str, float]]:
    """Returns the metrics of each predictor, from the files of :func:`write_predictions`.

    They are accuracy, NLL in nats and ECE, and for the training images the loss.
    """
    metrics: dict[str, dict[str, float]] = {}
    for split in splits:
        predictions, labels = read_predictions(folder, split, predictors)
        for name, members in predictions.items():
            predicted = ensemble_log_probs(members)
            row = metrics.setdefault(name, {})
            if split == "train":
                row["train_loss"] = nll(predicted)
            else:
                row |= classification_metrics(split, predicted, labels)
    return metrics
