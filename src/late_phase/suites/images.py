"""Suites for images: predict once, measure many times. Each returns numbers by predictor, and the number of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from late_phase import data
from late_phase.data.images import Dataset, Images
from late_phase.ensemble import ensemble_log_probs
from late_phase.evaluation import flatness as flat
from late_phase.evaluation.calibration import calibration_metrics
from late_phase.evaluation.corruption import corruption_errors
from late_phase.evaluation.metrics import accuracy, brier, disagreement, entropy, pairwise_kl
from late_phase.evaluation.ood import ood_metrics, ood_scores
from late_phase.evaluation.predict import EVALUATION_BATCH_SIZE, predict, read_predictions
from late_phase.evaluation.predictors import Single
from late_phase.suites.config import EvaluateConfig
from late_phase.support.digests import digest
from late_phase.support.errors import UserError
from late_phase.support.files import read_json, write_json
from late_phase.tasks.task import Metrics, TrainedModels

Amount = dict[str, Any]


def calibration(models: TrainedModels, config: EvaluateConfig) -> tuple[Metrics, Amount]:
    """Measures calibration with and without temperature scaling, Brier score, mean entropy, and the diversity of members."""
    predictions, labels = models.task.test_predictions(models)
    numbers: Metrics = {}
    for name, members in predictions.items():
        mean = ensemble_log_probs(members)
        numbers[name] = {
            "accuracy": accuracy(mean, labels),
            **calibration_metrics(mean, labels, models.seed),
            "brier": brier(mean, labels),
            "entropy": entropy(mean).mean().item(),
        }
        if len(members) > 1:
            numbers[name] |= {"disagreement": disagreement(members), "pairwise_kl": pairwise_kl(members)}
    return numbers, models.task.amount()


def ood(models: TrainedModels, config: EvaluateConfig) -> tuple[Metrics, Amount]:
    """Measures how well the entropy of predictions tells other datasets' test images from the model's: AUROC, AUPR, FPR95.

    The numbers are ``<metric>_<dataset>`` for each of ``config.ood``, and ``<metric>``, their mean. The images are fitted to the
    size and channels of the model's own. If the user has chosen the datasets, their names go into the record.

    Raises:
        UserError: there is no other dataset, or one can't be loaded.
    """
    names = list(dict.fromkeys(data.OOD.get(models.trained_on, ()) if config.ood is None else config.ood))
    if not names or models.trained_on in names:
        raise UserError(
            f"ood={names} must name only datasets other than dataset={models.trained_on}, at least one: set ood=[NAME,...]."
        )
    others = [load_by_name(name, config.root) for name in names]
    task = models.task
    predictions, _ = task.test_predictions(models)
    inside = {name: ood_scores(members) for name, members in predictions.items()}
    channels, *size = task.dataset.test.shape
    numbers: Metrics = {name: {} for name in inside}
    for other in tqdm(others, "out-of-distribution", leave=False, disable=None):
        folder = models.results / other.name
        task.predict(models, folder, {"ood": other.test.fit(channels, tuple(size)).to(task.device)})
        predictions, _ = read_predictions(folder, "ood", models.predictors)
        for name, members in predictions.items():
            for metric, value in ood_metrics(inside[name], ood_scores(members)).items():
                numbers[name][f"{metric}_{other.name}"] = value
    for row in numbers.values():
        row |= {metric: sum(row[f"{metric}_{o.name}"] for o in others) / len(others) for metric in ("auroc", "aupr", "fpr95")}
    return numbers, task.amount() | ({} if config.ood is None else {"ood": names})


def load_by_name(name: str, root: str) -> Dataset:
    """Loads a dataset of images by its name alone, with the defaults of its kind.

    Raises:
        UserError: the dataset doesn't exist, or needs more than its name.
    """
    known = sorted(set(data.names("images")) - set(data.NAMELESS))
    if name not in known:
        raise UserError(f"ood={name} is unknown: choose from {', '.join(known)}.")
    return data.load(name, **data.root_options(name, root))


def corruption(models: TrainedModels, config: EvaluateConfig) -> tuple[Metrics, Amount]:
    """Returns ``mce``, the mean error over all corruptions and severities, and each corruption's mean over severities.

    The errors are kept in a file. The predictions, for 75 test sets, are not kept.

    Raises:
        UserError: the dataset has no corrupted images.
    """
    if models.trained_on not in data.CORRUPTED_OF:
        raise UserError(f"dataset={models.trained_on} has no corrupted counterpart: choose another suite.")
    name = data.CORRUPTED_OF[models.trained_on]
    corrupted = data.load_corrupted(name, **data.root_options(name, config.root))

    def errors() -> dict[str, dict[str, dict[str, float]]]:
        slices = [(name, severity) for name in corrupted.corruptions for severity in corrupted.severities]
        found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in models.predictors}
        for name, severity in tqdm(slices, "corruptions", leave=False, disable=None):
            images = corrupted.images(name, severity).to(models.task.device)
            for predictor, error in slice_errors(models, images).items():
                found[predictor].setdefault(name, {})[str(severity)] = error
        return found

    made_of = digest(models.digest, *models.predictors, corrupted.name, corrupted.version, *corrupted.corruptions)
    numbers = {
        predictor: corruption_errors({n: {int(s): e for s, e in row.items()} for n, row in own.items()}, corrupted.corruptions)
        for predictor, own in kept(models.results / corrupted.name / "errors.json", made_of, errors).items()
    }
    return numbers, {"images": len(corrupted.images(corrupted.corruptions[0], 1))}


def slice_errors(models: TrainedModels, images: Images) -> dict[str, float]:
    """Returns the share of images that each predictor classifies wrongly."""
    errors = {}
    with models.autocast():
        for name, predictor in models.predictors.items():
            members = predict(predictor, {"test": images}, models.task.encoding, models.seed)["test"]
            errors[name] = 1 - accuracy(ensemble_log_probs(members), images.labels.cpu())
    return errors


def flatness(models: TrainedModels, config: EvaluateConfig) -> tuple[dict[str, dict[str, list[float]]], Amount]:
    """Returns δL(σ_z) of each single model on the test images, with half the width of its 95 % interval.

    Raises:
        UserError: there is no single model, or the grid is out of range.
    """
    config.flatness.check()
    sigmas, draws = config.flatness.sigmas, config.flatness.draws
    singles = {name: predictor for name, predictor in models.predictors.items() if isinstance(predictor, Single)}
    if not singles:
        raise UserError("suite=flatness needs a single model: choose another suite, or one run that has a single model.")
    task = models.task
    test = task.dataset.test

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for images in test.batches(EVALUATION_BATCH_SIZE):
            yield task.encoding(images.pixels), images.labels

    def curves() -> dict[str, dict[str, list[float]]]:
        found = {}
        for name, predictor in singles.items():
            with models.autocast():
                changes = flat.loss_changes(predictor.model, batches, sigmas, draws, models.seed)
                bar = tqdm(changes, f"flatness of {name}", draws, leave=False, disable=None)
                found[name] = asdict(flat.Flatness.of(sigmas, bar))
        return found

    made_of = digest(models.digest, test.fingerprint(), str(list(sigmas)), str(draws))
    return kept(models.results / task.dataset.name / "flatness.json", made_of, curves), task.amount()


def kept(path: Path, made_of: str, compute: Callable[[], Any]) -> Any:
    """Returns the results in a file if they were made from the same content ``made_of``, or else computes and stores them."""
    try:
        stored = read_json(path) or {}
    except ValueError:  # damaged
        stored = {}
    if stored.get("content") != made_of:
        stored = {"content": made_of, "results": compute()}
        write_json(path, stored)
    return stored["results"]
