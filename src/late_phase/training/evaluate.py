"""What a model is measured by: a run at its end, and a run, several runs or given weights whenever one likes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from late_phase import data
from late_phase.data.images import Dataset
from late_phase.errors import UserError
from late_phase.evaluation import suites
from late_phase.evaluation.suites import Subject
from late_phase.files import write_json
from late_phase.training.config import OWN, SCHEMAS, DatasetConfig, EvaluateConfig
from late_phase.training.provenance import record_of
from late_phase.training.run_directory import RunDirectory
from late_phase.training.setup import Setup, build_dataset
from late_phase.training.subjects import subject_of_run, subject_of_runs, subject_of_weights

SUITES = ("accuracy", "calibration", "ood", "corruption", "flatness")


def evaluate(setup: Setup, files: RunDirectory, seconds: float, commit: str | None) -> dict[str, Any]:
    """Writes the predictions of the exported weights and, computed from these, ``metrics.json``, which it returns."""
    subject = subject_of_run(setup.config, files, setup.dataset, setup.device)
    metrics = suites.measure(subject)
    for predictor, values in metrics.items():
        for name, value in values.items():
            if not math.isfinite(value):
                raise UserError(f"{name} of the trained model ({predictor}) is {value}: lower optimizer.lr.")
    record = record_of(setup.config, files.path, setup.device, seconds, commit) | {"metrics": metrics}
    write_json(files.metrics, record)
    return record


def evaluate_suites(config: EvaluateConfig, device: torch.device) -> dict[str, dict[str, Any]]:
    """Evaluates what the config names: results by suite, each also written to ``<folder>/<suite>.json``, with where it comes from;
    on another dataset than a run's own, to ``<folder>/<dataset>/<suite>.json``.

    The folder is ``evaluation/`` in the run's directory, or ``seeds=<n>,.../evaluation/`` beside the runs of a deep ensemble, or
    ``to``. A run's own files stay as they are.

    Raises:
        UserError: there is no such run, weights, suite or dataset, or they don't go together.
    """
    if config.suite not in (*SUITES, "all"):
        raise UserError(f"suite={config.suite} is unknown: choose one of {', '.join(SUITES)}, all.")
    if (config.run is None) == (config.architecture.name == OWN):
        raise UserError("one model is to be named: give run=DIRECTORY, or architecture=NAME with architecture.weights=FILE.")
    if config.run is None:
        subject, head = subject_of_weights(config, device)
    else:
        other = None
        if config.dataset.name != OWN:
            other = replace(build_dataset(config.dataset), train=None)
            if not other.classes:
                raise UserError(f"dataset={other.name} has no labels to be right about: choose suite=ood with ood=[{other.name}].")
            if config.suite not in ("accuracy", "calibration"):
                raise UserError(
                    f"suite={config.suite} is for the run's own dataset: leave out dataset={other.name}, or choose suite=accuracy."
                )
        elif config.dataset != DatasetConfig(name=OWN):
            raise UserError("keys of dataset were given, but the run's own dataset is taken as it was: add dataset=NAME.")
        subject, head = subject_of_runs(Path(config.run), config.seeds, other, device)
    results = {}
    for suite in SUITES if config.suite == "all" else (config.suite,):
        try:
            numbers = run_suite(suite, subject, config)
        except UserError as error:
            if config.suite != "all":
                raise
            print(f"without {suite}: {error}")
            continue
        dataset = subject.dataset
        results[suite] = head | {"dataset": dataset.name, "test_images": len(dataset.test), "suite": suite, "metrics": numbers}
        write_json((subject.folder if dataset.train is not None else subject.own) / f"{suite}.json", results[suite])
    return results


def run_suite(suite: str, subject: Subject, config: EvaluateConfig) -> dict[str, Any]:
    """Numbers of one suite.

    Raises:
        UserError: it isn't to be had for the subject.
    """
    own = subject.dataset.name
    if suite == "accuracy":
        return suites.measure(subject)
    if suite == "calibration":
        return suites.calibration(subject)
    if suite == "ood":
        names = data.OOD.get(own, ()) if config.ood is None else config.ood
        if not names:
            raise UserError(f"dataset={own} has no out-of-distribution datasets of its own: name some with ood=[NAME,...].")
        return suites.ood(subject, [load_named(name, config.root) for name in names])
    if suite == "corruption":
        if own not in data.CORRUPTED_OF:
            raise UserError(f"dataset={own} has no corrupted counterpart: choose another suite.")
        downloaded = {} if own == "digits" else {"root": config.root}
        return suites.corruption(subject, data.load_corrupted(data.CORRUPTED_OF[own], **downloaded))
    if not all(sigma >= 0 for sigma in config.flatness.sigmas) or config.flatness.draws < 2:
        raise UserError(
            f"flatness.sigmas={config.flatness.sigmas} and flatness.draws={config.flatness.draws} are out of range: "
            "choose numbers of at least 0, and at least 2 draws."
        )
    if "single" not in subject.predictors or subject.runs > 1:
        raise UserError("suite=flatness is about one single model: choose another suite, or one run that has one.")
    return suites.flatness(subject, config.flatness.sigmas, config.flatness.draws)


def load_named(name: str, root: str) -> Dataset:
    """A dataset by its name alone, with the defaults of its kind.

    Raises:
        UserError: there is no such dataset, or it is not to be had by its name alone.
    """
    if name not in data.DATASETS or name == "image_folder":
        known = sorted(set(data.DATASETS) - {"image_folder"})
        raise UserError(f"ood={name} is unknown: choose from {', '.join(known)}.")
    return data.load(name, **({"root": root} if "root" in SCHEMAS["dataset"][name].__dataclass_fields__ else {}))
