"""Evaluation suites on images: predict once, measure many. Each returns numbers of a subject, by the name of what predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from late_phase.data.corrupted import Corrupted
from late_phase.data.images import Dataset, Images, Normalization
from late_phase.ensemble import ensemble_log_probs
from late_phase.evaluation import flatness as flat
from late_phase.evaluation.calibration import calibration_metrics
from late_phase.evaluation.corruption import corruption_errors
from late_phase.evaluation.metrics import accuracy, brier, disagreement, entropy, pairwise_kl
from late_phase.evaluation.ood import ood_metrics, ood_scores
from late_phase.evaluation.predict import (
    EVALUATION_BATCH_SIZE,
    predict,
    read_metrics,
    read_predictions,
    write_predictions,
)
from late_phase.evaluation.predictors import Predictor
from late_phase.support.digests import digest
from late_phase.support.files import read_json, write_json

SINGLE_MODELS = ("single", "swa")

Numbers = dict[str, dict[str, float]]
"""Name of what predicts -> name of a metric -> value."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
        folder: where predictions and results go, a folder for each dataset.
        dataset: the one that it was trained for.
        source: name of that one's loader, which tells what its images are; a folder of images may have any name.
        own: where the predictions for that one are.
        predictors: all that predicts with its weights.
        normalization: of its inputs.
        autocast: makes the context of its forward passes.
        seed: of what is random in predictions and evaluations.
        content: stands for all that its predictions depend on besides the images.
        runs: number of runs whose members these are.
    """

    folder: Path
    dataset: Dataset
    source: str
    own: Path
    predictors: dict[str, Predictor]
    normalization: Normalization
    autocast: Callable[[], AbstractContextManager]
    seed: int
    content: str
    runs: int = 1

    def predict(self, folder: Path, splits: Mapping[str, Images]) -> None:
        """Has predictions of these images in ``folder``, those of before if they were made of the same."""
        with self.autocast():
            write_predictions(folder, splits, self.predictors, self.normalization, self.seed, self.content)

    def own_predictions(self) -> tuple[dict[str, Tensor], Tensor]:
        """Log-probabilities ``[members, examples, classes]`` of its own test images, and their labels."""
        self.predict(self.own, {"test": self.dataset.test})
        return read_predictions(self.own, "test")

    def measure(self) -> Numbers:
        """Accuracy, NLL in nats and ECE on the images held out, and the loss on training images, where there are some in memory."""
        train = {"train": self.dataset.train} if isinstance(self.dataset.train, Images) else {}
        splits = train | self.dataset.held_out()
        self.predict(self.own, splits)
        return read_metrics(self.own, splits)


def calibration(subject: Subject) -> Numbers:
    """Calibration with and without temperature scaling, Brier score and mean entropy, and the diversity of members."""
    predictions, labels = subject.own_predictions()
    numbers: Numbers = {}
    for name, members in predictions.items():
        mean = ensemble_log_probs(members)
        numbers[name] = {
            "accuracy": accuracy(mean, labels),
            **calibration_metrics(mean, labels, subject.seed),
            "brier": brier(mean, labels),
            "entropy": entropy(mean).mean().item(),
        }
        if len(members) > 1:
            numbers[name] |= {"disagreement": disagreement(members), "pairwise_kl": pairwise_kl(members)}
    return numbers


def ood(subject: Subject, others: Sequence[Dataset]) -> Numbers:
    """How well the entropy of the prediction tells other datasets' test images from its own: AUROC, AUPR and FPR95.

    ``<metric>_<dataset>`` for each of them, and ``<metric>``, their mean. Images are fitted to the size and channels of its own.
    """
    predictions, _ = subject.own_predictions()
    inside = {name: ood_scores(members) for name, members in predictions.items()}
    channels, *size = subject.dataset.test.shape
    numbers: Numbers = {name: {} for name in inside}
    for other in tqdm(others, "out-of-distribution", leave=False, disable=None):
        folder = subject.folder / other.name
        subject.predict(folder, {"ood": other.test.fit(channels, tuple(size)).to(subject.dataset.test.device)})
        predictions, _ = read_predictions(folder, "ood")
        for name, members in predictions.items():
            for metric, value in ood_metrics(inside[name], ood_scores(members)).items():
                numbers[name][f"{metric}_{other.name}"] = value
    for row in numbers.values():
        row |= {metric: sum(row[f"{metric}_{o.name}"] for o in others) / len(others) for metric in ("auroc", "aupr", "fpr95")}
    return numbers


def corruption(subject: Subject, corrupted: Corrupted) -> Numbers:
    """``mce``, the mean error over all corruptions and severities, and each corruption's mean error over severities.

    Errors are kept, the predictions, of 75 test sets, are not.
    """

    def errors() -> dict[str, dict[str, dict[str, float]]]:
        slices = [(name, severity) for name in corrupted.corruptions for severity in corrupted.severities]
        found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in subject.predictors}
        for name, severity in tqdm(slices, "corruptions", leave=False, disable=None):
            images = corrupted.images(name, severity).to(subject.dataset.test.device)
            for predictor, error in slice_errors(subject, images).items():
                found[predictor].setdefault(name, {})[str(severity)] = error
        return found

    content = digest(subject.content, *subject.predictors, corrupted.name, corrupted.version, *corrupted.corruptions)
    return {
        predictor: corruption_errors({n: {int(s): e for s, e in row.items()} for n, row in own.items()}, corrupted.corruptions)
        for predictor, own in kept(subject.folder / corrupted.name / "errors.json", content, errors).items()
    }


def slice_errors(subject: Subject, images: Images) -> dict[str, float]:
    """Share of images that each predictor classifies wrongly."""
    errors = {}
    with subject.autocast():
        for name, predictor in subject.predictors.items():
            members = predict(predictor, {"test": images}, subject.normalization, subject.seed)["test"]
            errors[name] = 1 - accuracy(ensemble_log_probs(members), images.labels.cpu())
    return errors


def flatness(subject: Subject, sigmas: Sequence[float], draws: int) -> dict[str, dict[str, list[float]]]:
    """δL(σ_z) of each single model, on the test images, with half the width of its 95 % interval."""
    test = subject.dataset.test

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for images in test.batches(EVALUATION_BATCH_SIZE):
            yield subject.normalization(images.pixels), images.labels

    def curves() -> dict[str, dict[str, list[float]]]:
        found = {}
        for name in (name for name in SINGLE_MODELS if name in subject.predictors):
            (model,) = subject.predictors[name]()
            with subject.autocast():
                changes = flat.loss_changes(model, batches, sigmas, draws, subject.seed)
                bar = tqdm(changes, f"flatness of {name}", draws, leave=False, disable=None)
                found[name] = asdict(flat.Flatness.of(sigmas, bar))
        return found

    content = digest(subject.content, test.fingerprint(), str(list(sigmas)), str(draws))
    return kept(subject.folder / subject.dataset.name / "flatness.json", content, curves)


def kept(path: Path, content: str, compute: Callable[[], Any]) -> Any:
    """What ``compute`` returned when it was called for the same content, from a file; or else now."""
    try:
        stored = read_json(path) or {}
    except ValueError:  # damaged
        stored = {}
    if stored.get("content") != content:
        stored = {"content": content, "results": compute()}
        write_json(path, stored)
    return stored["results"]
