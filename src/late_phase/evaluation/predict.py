"""Predict once, measure many: log-probabilities of whatever predicts, in files, and metrics from these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from late_phase.data.images import Images, Normalization
from late_phase.evaluation.metrics import accuracy, ece, label_log_probs, nll
from late_phase.evaluation.predictors import Predictor
from late_phase.files import write_tensors
from late_phase.method import ensemble_log_probs
from late_phase.seeding import global_generators

EVALUATION_BATCH_SIZE = 500

PREDICTORS = ("single", "ensemble", "mc_dropout", "swa", "swa_ensemble", "swa_mc_dropout", "swag")
"""Names of all there may be, in the order of tables."""


@torch.no_grad()
def log_probs(model: nn.Module, images: Images, normalization: Normalization) -> Tensor:
    """The model's log-probabilities ``[examples, classes]`` in the mode that it is in, without augmentation, float32 on the CPU."""
    batches = images.pixels.split(EVALUATION_BATCH_SIZE)
    return torch.cat([model(normalization(pixels)).float().log_softmax(-1) for pixels in batches]).cpu()


def predict(predictor: Predictor, splits: Mapping[str, Images], normalization: Normalization, seed: int = 0) -> dict[str, Tensor]:
    """Log-probabilities ``[members, examples, classes]`` of each split.

    Args:
        seed: of what is random in the models, such as MC-dropout. A member's randomness depends on this, on its number and on the
            split, not on what was computed before.
    """
    predicted: dict[str, list[Tensor]] = {split: [] for split in splits}
    for k, model in enumerate(predictor()):
        for split, images in splits.items():
            with global_generators(images.pixels.device, seed, "predict", k, split):
                predicted[split].append(log_probs(model, images, normalization))
    return {split: torch.stack(members) for split, members in predicted.items()}


def write_predictions(
    folder: Path, splits: Mapping[str, Images], predictors: Mapping[str, Predictor], normalization: Normalization, seed: int = 0
) -> None:
    """Writes ``<split>.safetensors`` for each split: ``labels`` ``[examples]`` and for each predictor its log-probabilities.

    Those are ``[members, examples, classes]``; of the training images, which are many, the labels' only, ``[members, examples]``.
    Files of other splits are removed.
    """
    tensors = {split: {"labels": images.labels.cpu()} for split, images in splits.items()}
    for name, predictor in predictors.items():
        for split, predicted in predict(predictor, splits, normalization, seed).items():
            tensors[split][name] = label_log_probs(predicted, tensors[split]["labels"]) if split == "train" else predicted
    _write(folder, tensors)


def combine_predictions(folder: Path, folders: Sequence[Path]) -> None:
    """Joins the prediction files of several runs into a deep ensemble's: the members of a predictor are those of all the runs.

    Raises:
        ValueError: the runs have no split and predictor in common, or different labels.
    """
    found = [{path.stem: load_file(path) for path in sorted(other.glob("*.safetensors"))} for other in folders]
    splits = [split for split in found[0] if all(split in run for run in found)]
    tensors: dict[str, dict[str, Tensor]] = {}
    for split in splits:
        labels = found[0][split]["labels"]
        if not all(torch.equal(run[split]["labels"], labels) for run in found):
            raise ValueError(f"the {split} images of {folders[0]} are not those of the others")
        names = [name for name in found[0][split] if name != "labels" and all(name in run[split] for run in found)]
        tensors[split] = {"labels": labels} | {name: torch.cat([run[split][name] for run in found]) for name in names}
    if not any(len(names) > 1 for names in tensors.values()):
        raise ValueError(f"{', '.join(map(str, folders))} have no predictions in common")
    _write(folder, tensors)


def _write(folder: Path, tensors: dict[str, dict[str, Tensor]]) -> None:
    for other in folder.glob("*.safetensors"):
        if other.stem not in tensors:
            other.unlink()
    for split, predictions in tensors.items():
        write_tensors(folder / f"{split}.safetensors", predictions)


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
    return {name: metrics[name] for name in PREDICTORS if name in metrics}
