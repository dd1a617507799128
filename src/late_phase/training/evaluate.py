"""What a model is measured by: a run at its end, and a run, several runs or given weights whenever one likes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from filelock import FileLock

from late_phase import data
from late_phase.data.images import Dataset
from late_phase.evaluation import suites
from late_phase.evaluation.suites import Subject
from late_phase.evaluation.text import TextSubject, printable
from late_phase.support.errors import UserError
from late_phase.support.files import make_folder, write_json, write_text
from late_phase.training.config import SUITES, EvaluateConfig
from late_phase.training.provenance import record_of
from late_phase.training.run_directory import RunDirectory
from late_phase.training.setup import Setup
from late_phase.training.subjects import subject_of, subject_of_run


def evaluate(setup: Setup, files: RunDirectory, seconds: float, commit: str | None) -> dict[str, Any]:
    """Writes ``metrics.json`` of the exported weights, which it returns; before it predictions of images, or a sample of text."""
    subject = subject_of_run(setup.config, files, setup.task.dataset, setup.device)
    metrics = subject.measure()
    for predictor, values in metrics.items():
        for name, value in values.items():
            if not math.isfinite(value):
                raise UserError(f"{name} of the trained model ({predictor}) is {value}: lower optimizer.lr.")
    record = record_of(setup.config, files.path, setup.device, seconds, commit)
    if isinstance(subject, TextSubject):
        record["text_sha256"] = subject.dataset.sha256
        write_text(files.sample, printable(subject.sample()) + "\n")
    record["metrics"] = metrics
    write_json(files.metrics, record)
    return record


def evaluate_suites(config: EvaluateConfig, device: torch.device) -> Iterator[dict[str, Any]]:
    """Evaluates what a checked config names: yields the results of each suite, each also written to ``<folder>/<suite>.json``, with
    where it comes from; on another dataset than a run's own, to ``<folder>/<dataset>/<suite>.json``.

    The folder is ``evaluation/`` in the run's directory, or ``seeds=<n>,.../evaluation/`` beside the runs of a deep ensemble, or
    ``to``. A run's own files stay as they are.

    Raises:
        UserError: there is no such run, weights or dataset, or they don't go together.
    """
    subject, head = subject_of(config, device)
    dataset = subject.dataset
    to = subject.folder if dataset.train is not None or config.run is None else subject.own
    make_folder("run" if config.to is None else "to", to)
    with FileLock(to / ".lock"):
        for suite in SUITES if config.suite == "all" else (config.suite,):
            try:
                numbers, amount = run_suite(suite, subject, config)
            except (UserError, ValueError) as error:
                if config.suite == "all":
                    print(f"without {suite}: {error}")
                    continue
                raise error if isinstance(error, UserError) else UserError(f"suite={suite} is not to be had: {error}") from error
            record = head | {"dataset": dataset.name, **amount, "suite": suite, "metrics": numbers}
            write_json(to / f"{suite}.json", record)
            yield record


def run_suite(suite: str, subject: Subject | TextSubject, config: EvaluateConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Numbers of one suite, and of how many test images, or bytes of which text's test part, they are.

    Raises:
        UserError: it isn't to be had for the subject.
        ValueError: it isn't to be had from its predictions.
    """
    if isinstance(subject, TextSubject):
        if suite != "accuracy":
            raise UserError(f"suite={suite} is about images: choose suite=accuracy, which for a text is bits per character.")
        return subject.measure(), {"bytes": len(subject.dataset.test), "text_sha256": subject.dataset.sha256}
    source, images = subject.source, {"images": len(subject.dataset.test)}
    if suite == "accuracy":
        return subject.measure(), images
    if suite == "calibration":
        return suites.calibration(subject), images
    if suite == "ood":
        names = list(dict.fromkeys(data.OOD.get(source, ()) if config.ood is None else config.ood))
        if not names or source in names:
            raise UserError(f"ood={names} is nothing to tell dataset={source} from: name other datasets with ood=[NAME,...].")
        return suites.ood(subject, [load_named(name, config.root) for name in names]), images
    if suite == "corruption":
        if source not in data.CORRUPTED_OF:
            raise UserError(f"dataset={source} has no corrupted counterpart: choose another suite.")
        name = data.CORRUPTED_OF[source]
        corrupted = data.load_corrupted(name, **data.root_options(name, config.root))
        return suites.corruption(subject, corrupted), {"images": len(corrupted.images(corrupted.corruptions[0], 1))}
    sigmas, draws = config.flatness.sigmas, config.flatness.draws
    if not sigmas or not all(0 <= sigma < math.inf for sigma in sigmas) or draws < 2:
        raise UserError(
            f"flatness.sigmas={sigmas} and flatness.draws={draws} are out of range: choose numbers from 0 on, and at least 2 draws."
        )
    if "single" not in subject.predictors or subject.runs > 1:
        raise UserError("suite=flatness is about one single model: choose another suite, or one run that has one.")
    return suites.flatness(subject, sigmas, draws), images


def load_named(name: str, root: str) -> Dataset:
    """A dataset by its name alone, with the defaults of its kind.

    Raises:
        UserError: there is no such dataset, or it is not to be had by its name alone.
    """
    if name not in data.DATASETS or name == "image_folder":
        known = sorted(set(data.DATASETS) - {"image_folder"})
        raise UserError(f"ood={name} is unknown: choose from {', '.join(known)}.")
    return data.load(name, **data.root_options(name, root))
