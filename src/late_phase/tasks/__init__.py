"""Kinds of tasks, one module each: what is learnt, from which data, and how it is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from late_phase.support.lazy import Lazy

if TYPE_CHECKING:
    import torch

    from late_phase.data import DatasetConfig
    from late_phase.tasks.task import Task

TASKS = {
    "images": Lazy("late_phase.tasks.images.ImageTask"),
    "text": Lazy("late_phase.tasks.text.TextTask"),
    "tables": Lazy("late_phase.tasks.tables.TableTask"),
}
"""Kind -> class. The configs of datasets and architectures name the kind that they are for."""


def kind_of(config: DatasetConfig) -> type[Task]:
    """Returns the kind of task that a dataset is for."""
    return TASKS[config.task].resolve()


def build(config: DatasetConfig, device: torch.device) -> Task:
    """Builds the task of learning from the config's dataset.

    Raises:
        UserError: the dataset can't be loaded.
    """
    kind = kind_of(config)
    dataset = kind.load(config)
    return kind(dataset, kind.encoding_of(config, dataset), device)
