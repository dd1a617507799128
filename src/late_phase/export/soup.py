"""Model soups (Wortsman et al., 2022): the average of the single models of finished runs that began from the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from late_phase import tasks
from late_phase.config.choices import CHOICES
from late_phase.config.identity import differences, identity
from late_phase.config.training import TrainConfig
from late_phase.methods.exported import WeightFiles
from late_phase.reporting.runs import find_runs
from late_phase.running_statistics import recompute_running_statistics
from late_phase.runs.config_file import from_yaml, to_yaml
from late_phase.runs.directory import RunDirectory
from late_phase.runs.models import models_of_run, refuse_other_data, train_again
from late_phase.runs.provenance import code_version, record_of
from late_phase.support.devices import autocast
from late_phase.support.errors import UserError
from late_phase.support.files import make_folder, write_json, write_text
from late_phase.tasks.task import Task
from late_phase.weights import load


@dataclass(frozen=True)
class Ingredient:
    """A finished run: its directory, config and record, and the encoding and the ``state_dict`` of its single model."""

    files: RunDirectory
    config: TrainConfig
    record: dict[str, Any]
    encoding: Any
    state: dict[str, Tensor]


def soup(
    places: Sequence[Path], to: Path, greedy: bool, device: torch.device
) -> tuple[dict[str, Any], Callable[[Mapping[str, float]], str]]:
    """Writes a folder with the average of several runs' models.

    A uniform soup has all runs. A greedy soup goes through them from the best to the worst, and takes each one that doesn't make it
    worse. Validation data alone decide which soup is better. Running statistics are estimated again on training data.

    Args:
        places: runs, or folders above them.
        to: the folder, which ``scripts/evaluate.py`` and ``late_phase.load`` read as a run.

    Returns:
        the content of the folder's ``metrics.json``, and what puts the metrics of a predictor into words.

    Raises:
        UserError: there are fewer than two runs, or the runs don't go together. Or a greedy soup has no validation data, or ``to``
            can't be used.
    """
    if RunDirectory(to).history.exists():
        raise UserError(f"--to {to} is a run: choose another folder.")
    directories = [run.directory for run in find_runs(places) if run.history]
    if len(directories) < 2:
        raise UserError(f"a soup needs at least 2 runs, and there is {len(directories)}: give more of them.")
    ingredients = [read(directory) for directory in directories]
    refuse_strangers(ingredients)
    first = ingredients[0]
    kind, version = tasks.kind_of(first.config.dataset), code_version()
    task = kind(kind.load(first.config.dataset), first.encoding, device)
    for own in ingredients:
        refuse_other_data(own.files, own.record, task.fingerprint(), first.config.dataset.name)
    kitchen = Kitchen(task, first.config)
    chosen, tried = kitchen.greedy(ingredients) if greedy else (ingredients, [])
    kitchen.mix(chosen)

    make_folder("--to", to)
    files, none = RunDirectory(to), {group: CHOICES[group]["none"].config(name="none") for group in ("late_phase", "averaging")}
    config = replace(first.config, **none)
    files.metrics.unlink(missing_ok=True)  # it says that the folder is complete
    write_text(files.config, to_yaml(config))
    WeightFiles(to).write(kitchen.model, {}, first.encoding.to_json())
    models = models_of_run(config, files, device, task.dataset)
    record = record_of(config, to, device, sum(own.record["seconds"] for own in ingredients), version) | task.fingerprint()
    record["soup"] = {"greedy": greedy, "runs": [str(own.files.path) for own in chosen], "of": len(ingredients), "tried": tried}
    record["metrics"] = models.task.evaluate(models)
    write_json(files.metrics, record)
    return record, task.in_words


def read(directory: Path) -> Ingredient:
    """Reads a finished run.

    Raises:
        UserError: a file is missing or damaged.
    """
    files = RunDirectory(directory)
    config, path = from_yaml(files.config), WeightFiles(directory).model
    try:
        return Ingredient(files, config, files.read_metrics(), tasks.kind_of(config.dataset).stored_encoding(path), load_file(path))
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise train_again(files, error) from error


def refuse_strangers(ingredients: Sequence[Ingredient]) -> None:
    """Refuses runs whose average means nothing, or that have no single model.

    Raises:
        UserError: a run began from weights of its own, or has an ensemble, or differs from the first in its architecture or data.
    """
    first = ingredients[0]
    for own in ingredients:
        place, config = own.files.path, own.config
        if config.architecture.weights is None:
            raise UserError(
                f"{place} began from its own random weights, so it can't be averaged with other runs: give runs with the same "
                "architecture.weights."
            )
        if config.ensemble.name != "none":
            raise UserError(f"{place} has no single model with ensemble={config.ensemble.name}: give runs with ensemble=none.")
        if config.late_phase.running_statistics == "folded" and config.late_phase.reached(config.epochs) is not None:
            raise UserError(
                f"{place} has late_phase.running_statistics=folded, so its weights contain its own statistics: give runs with "
                "mean or recompute."
            )
        changes = differences(identity(first.config), identity(config))
        changes = [line for line in changes if line.startswith(("architecture.", "dataset."))]
        if own.encoding != first.encoding:
            changes.append("the encoding of their data")
        if changes:
            raise UserError(
                f"{place} and {first.files.path} differ ({'; '.join(changes)}): give runs of one dataset and architecture, from "
                "the same weights."
            )


class Kitchen:
    """Mixes ingredients in one model, and measures them.

    Args:
        task: the data.
        config: the first run's, for the architecture, the precision, and the minibatches to estimate running statistics with.

    Attributes:
        model: a plain model with the latest mixture.

    Raises:
        UserError: the weights that the runs began from don't fit whole, so each run has drawn a last layer of its own.
    """

    def __init__(self, task: Task, config: TrainConfig) -> None:
        self.task = task
        self.model = task.model(config.architecture, config.architecture.weights, whole=True).to(task.device)
        self.autocast = partial(autocast, task.device, config.precision_on(task.device))
        self.batches = partial(task.batches(config).epoch, config.epochs)

    def mix(self, ingredients: Iterable[Ingredient]) -> None:
        """Gives the model the mean of the ingredients' weights, and running statistics for it. A lone ingredient stays as it is."""
        states = [own.state for own in ingredients]
        self.model.load_state_dict(states[0])
        if len(states) > 1:
            names = [name for name, _ in self.model.named_parameters()]
            load(self.model, {name: torch.stack([state[name] for state in states]).mean(0) for name in names})
            with self.autocast():
                recompute_running_statistics(self.model, self.batches())

    def greedy(self, ingredients: Sequence[Ingredient]) -> tuple[list[Ingredient], list[dict[str, Any]]]:
        """Returns the ingredients of the greedy soup, and what was tried: for each run in order, the measurement with it.

        Raises:
            UserError: there are no validation data.
        """
        names = [name for name in self.task.measured() if name.startswith("validation_")]
        if not names:
            raise UserError("--greedy chooses by validation data, and these runs have none: train with dataset.validation above 0.")
        # Accuracy, as in the paper, or else an error: nats, bits per character.
        key = next((name for name in names if name.endswith("_accuracy")), names[0])
        sign = 1 if key.endswith("_accuracy") else -1

        def value(some: list[Ingredient]) -> float:
            self.mix(some)
            with self.autocast():
                return self.task.measure(self.model)[key]

        alone = [(value([own]), own) for own in ingredients]
        chosen, tried, best = [], [], 0.0
        for found, own in sorted(alone, key=lambda one: -sign * one[0]):
            together = value([*chosen, own]) if chosen else found
            taken = not chosen or sign * together >= sign * best
            if taken:
                chosen, best = [*chosen, own], together
            tried.append({"run": str(own.files.path), f"{key}_alone": found, f"{key}_with_it": together, "taken": taken})
        return chosen, tried
