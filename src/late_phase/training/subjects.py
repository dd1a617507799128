"""What is evaluated, from files: a run, several runs as a deep ensemble, or weights of any origin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from late_phase.data.images import Dataset, Normalization
from late_phase.data.text import Text, Vocabulary
from late_phase.evaluation.predict import content_of, read_content
from late_phase.evaluation.predictors import dropout_layers, mc_dropout, predictor_of, several
from late_phase.evaluation.suites import Subject
from late_phase.evaluation.text import TextSubject
from late_phase.support.digests import digest, tensor_digest
from late_phase.support.errors import UserError, first_line
from late_phase.training.config import (
    OWN,
    EvaluateConfig,
    TextConfig,
    TrainConfig,
    config_hash,
    differences,
    from_yaml,
    identity,
)
from late_phase.training.export import predictors, weight_files
from late_phase.training.provenance import device_name, git_commit, record_of
from late_phase.training.run_directory import RunDirectory
from late_phase.training.settings import autocast
from late_phase.training.tasks import build_dataset, build_encoding, read_encoding, stored_encoding, task_of


def subject_of(config: EvaluateConfig, device: torch.device) -> tuple[Subject | TextSubject, dict[str, Any]]:
    """What the config names, and the head of its results.

    Raises:
        UserError: there is no such run, weights or dataset, or they don't go together.
    """
    if config.run is None:
        return subject_of_weights(config, device)
    return subject_of_runs(Path(config.run), config.seeds, other_dataset(config), device)


def other_dataset(config: EvaluateConfig) -> Dataset | Text | None:
    """The dataset that a run is to be evaluated on, without a part to train on; None for its own.

    Raises:
        UserError: the dataset or the suite is for something else.
    """
    if config.dataset.name == OWN:
        return None
    other = replace(build_dataset(config.dataset), train=None)
    if isinstance(other, Dataset) and not other.classes:
        raise UserError(
            f"dataset={other.name} has no labels to be right about: choose suite=ood with ood=[{other.name}] instead of it."
        )
    if config.suite not in ("accuracy", "calibration"):
        raise UserError(
            f"suite={config.suite} is for the run's own dataset: leave out dataset={other.name}, or choose suite=accuracy."
        )
    return other


def subject_of_run(
    config: TrainConfig, files: RunDirectory, dataset: Dataset | Text, device: torch.device
) -> Subject | TextSubject:
    """A run by the weights that it has exported, on its own dataset, or on another one, which has no part to train on then.

    Raises:
        UserError: a file is damaged, or the dataset doesn't fit the model.
    """
    if isinstance(dataset, Text) != isinstance(config.dataset, TextConfig):
        raise UserError(
            f"dataset={dataset.name} is not of the kind that {files.path} was trained on: choose one like {config.dataset.name}."
        )
    weights = weight_files(files)
    try:
        task = task_of(dataset, read_encoding(files.model), device)
        found = predictors(config, files, lambda: task.model(config.architecture), device)
        content = digest(*weights, config_hash(config))
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise UserError(f"run={files.path} is damaged ({first_line(error)}): train it again in an empty directory.") from error
    except RuntimeError as error:
        if isinstance(dataset, Text):  # whose bytes are not asked for here
            raise UserError(
                f"run={files.path} has weights of another architecture: train it again in an empty directory."
            ) from error
        raise UserError(
            f"dataset={dataset.name} with {len(dataset.classes)} classes and {dataset.test.shape[0]} channels doesn't fit "
            f"the model in {files.path}: choose one like {config.dataset.name}."
        ) from error
    folder = files.path / "evaluation"
    return task.subject(
        own=files.predictions if dataset.train is not None else folder / dataset.name,
        folder=folder,
        source=config.dataset.name,
        predictors=found,
        autocast=partial(autocast, device, config.compute.precision),
        seed=config.seed,
        content=content,
    )


def subject_of_runs(
    path: Path, seeds: Sequence[int] | None, other: Dataset | Text | None, device: torch.device
) -> tuple[Subject | TextSubject, dict[str, Any]]:
    """A finished run in ``path``, or those in ``path/seed=<n>`` as a deep ensemble; and the head of its results.

    What a predictor of the ensemble averages over are the members of that predictor in all of the runs: for ``single`` the runs'
    single models.

    Args:
        seeds: of the ensemble; all that there are by default.

    Raises:
        UserError: there is no such run, or the runs were not trained on the same data.
    """
    found = sorted(int(folder.name[5:]) for folder in path.glob("seed=*") if folder.name[5:].isdigit())
    together = seeds is not None or bool(found)
    seeds = sorted(set(found if seeds is None else seeds))
    if together and not (seeds and set(seeds) <= set(found)):
        raise UserError(
            f"run={path} has directories seed=<n> for n in {found}, not in {seeds}: choose the folder above them, or others."
        )
    runs = [RunDirectory(path / f"seed={seed}") for seed in seeds] if together else [RunDirectory(path)]
    configs, records, subjects, texts = [], [], [], []
    for files in runs:
        finished = files.read_metrics()
        if finished is None:
            raise UserError(f"run={files.path} holds no finished run: train it first, or give the directory with its metrics.json.")
        texts.append(finished.get("text_sha256"))
        configs.append(from_yaml(files.config))
        records.append(record_of(configs[-1], files.path, device, finished.get("seconds", 0.0), git_commit()))
        changes = differences(identity(configs[0]), identity(configs[-1]))
        # Each seed may begin from weights of its own.
        if changes := [line for line in changes if line.partition(":")[0] not in ("seed", "architecture.weights")]:
            raise UserError(f"run={path} has runs that differ ({'; '.join(changes)}): choose seeds that were trained alike.")
        dataset = subjects[0].dataset if subjects else build_dataset(configs[0].dataset) if other is None else other
        text = texts[0] if other is not None else dataset.sha256 if isinstance(dataset, Text) else None
        if texts[-1] != text:
            raise UserError(
                f"run={files.path} was trained on a text of sha256 {texts[-1]}, not {text} as that of {configs[0].dataset.name} "
                "or of other runs is: choose runs of the same text, or name one by dataset=text_file dataset.path=FILE."
            )
        subjects.append(subject_of_run(configs[-1], files, dataset, device))
    if not together:
        return without_overwriting(subjects[0]), records[0]
    names = [name for name in subjects[0].predictors if all(name in subject.predictors for subject in subjects)]
    folder = path / f"seeds={','.join(map(str, seeds))}"
    ensemble = replace(
        subjects[0],
        folder=folder / "evaluation",
        own=folder / "predictions" if other is None else folder / "evaluation" / other.name,
        predictors={name: several([subject.predictors[name] for subject in subjects]) for name in names},
        content=digest(*(subject.content for subject in subjects)),
        runs=len(runs),
    )
    head = records[0] | {"seed": seeds, "config_hash": [record["config_hash"] for record in records]}
    return ensemble, head | {"seconds": round(sum(record["seconds"] for record in records), 3)}


def without_overwriting(run: Subject | TextSubject) -> Subject | TextSubject:
    """The run; if weights or images have been changed since the end of training, what was predicted then stays."""
    if isinstance(run, TextSubject):  # keeps no predictions
        return run
    made_of = content_of(run.content, run.predictors, run.dataset.test)
    if read_content(run.own, "test") in (None, made_of):
        return run
    return replace(run, own=run.folder / run.dataset.name)


def subject_of_weights(config: EvaluateConfig, device: torch.device) -> tuple[Subject | TextSubject, dict[str, Any]]:
    """Weights of any origin in an architecture of ours, on a dataset; and the head of its results.

    Raises:
        UserError: the weights or the dataset are not to be had, or don't go together.
    """
    architecture, weights = config.architecture, config.architecture.weights
    dataset = build_dataset(config.dataset)
    if isinstance(dataset, Dataset) and (dataset.train is None or not dataset.classes):
        raise UserError(f"dataset={dataset.name} is not one to train on: choose that which the weights were trained on.")
    stored = stored_encoding(Path(weights)) if getattr(config.dataset, "mean", None) is None else None
    kind = Vocabulary if isinstance(dataset, Text) else Normalization
    encoding = stored if isinstance(stored, kind) else build_encoding(config.dataset, dataset)
    task = task_of(dataset, encoding, device)
    model = task.model(architecture, weights, whole=True).to(device)
    found = {"single": predictor_of(model)}
    if dropout_layers(model):
        found["mc_dropout"] = mc_dropout(model, architecture.mc_samples)
    folder = Path(config.to)
    settings = json.dumps(asdict(replace(architecture, weights=None)), sort_keys=True)
    subject = task.subject(
        own=folder / dataset.name,
        folder=folder,
        source=config.dataset.name,
        predictors=found,
        autocast=partial(autocast, device, "fp32"),
        seed=0,
        content=digest(tensor_digest(model.state_dict().values()), task.encoding.to_json(), settings),
    )
    head = {"weights": weights, "architecture": asdict(architecture), "git_commit": git_commit(), "device": device_name(device)}
    return subject, head | {"torch": torch.__version__}
