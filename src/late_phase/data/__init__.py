"""Datasets by name: images, corrupted images, texts and tables. Each has its own keys in the config group ``dataset``."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING

from late_phase.config.choices import CHOICES, build, register
from late_phase.config.refusals import above_0, at_least, one_of, seed
from late_phase.config.training import Chosen, path
from late_phase.support.errors import UserError
from late_phase.support.lazy import Lazy

if TYPE_CHECKING:
    from late_phase.config.training import TrainConfig
    from late_phase.data.corrupted import Corrupted
    from late_phase.data.images import Dataset
    from late_phase.data.tables import Table
    from late_phase.data.text import Text

OBJECTIVES = ("auto", "regression", "classification")
"""What a table's target can be."""


@dataclass
class DatasetConfig(Chosen):
    """The config of a dataset.

    Attributes:
        task: the kind of task that the dataset is for: a name in ``late_phase.tasks.TASKS``.
    """

    task: ClassVar[str] = ""

    subset: int | None = None
    test_subset: int | None = None

    def check(self, config: TrainConfig) -> None:
        at_least("dataset.subset", self.subset, 1)
        at_least("dataset.test_subset", self.test_subset, 1)


@dataclass
class ImagesConfig(DatasetConfig):
    task: ClassVar[str] = "images"

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    mean: list[float] | None = None
    std: list[float] | None = None
    validation: int = 0
    split_seed: int = 0

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        for key in ("crop_padding", "cutout", "validation"):
            at_least(f"dataset.{key}", getattr(self, key), 0)
        if (self.mean is None) != (self.std is None):
            raise UserError("dataset.mean and dataset.std go together: set both, or neither to have them computed.")
        seed("dataset.split_seed", self.split_seed)


@dataclass
class DownloadedConfig(ImagesConfig):
    root: str = path()


@dataclass
class ImageFolderConfig(ImagesConfig):
    root: str = path()
    image_size: int | None = None
    cache: str = path()

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        at_least("dataset.image_size", self.image_size, 1)


@dataclass
class ImageNetConfig(ImagesConfig):
    root: str = path()
    workers: int = MISSING

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        at_least("dataset.workers", self.workers, 0)


@dataclass
class TextConfig(DatasetConfig):
    task: ClassVar[str] = "text"

    sequence_length: int = MISSING
    carry_state: bool = MISSING
    minibatches: int | None = None

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        at_least("dataset.sequence_length", self.sequence_length, 1)
        at_least("dataset.minibatches", self.minibatches, 1)


@dataclass
class DownloadedTextConfig(TextConfig):
    root: str = path()


@dataclass
class TextFileConfig(TextConfig):
    path: str = path()


@dataclass
class TableConfig(DatasetConfig):
    task: ClassVar[str] = "tables"

    validation: float = MISSING
    test: float = MISSING
    split_seed: int = 0
    scaling: str = MISSING
    unseen: str = MISSING

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        at_least("dataset.validation", self.validation, 0)
        above_0("dataset.test", self.test)
        if self.validation + self.test >= 1:
            raise UserError(
                f"dataset.validation={self.validation} and dataset.test={self.test} leave no rows to train on: choose shares whose "
                "sum is below 1."
            )
        seed("dataset.split_seed", self.split_seed)
        one_of("dataset.scaling", self.scaling, ("quantile", "standard"))
        one_of("dataset.unseen", self.unseen, ("refuse", "zeros"))


@dataclass
class TableFileConfig(TableConfig):
    validation_path: str | None = path(None)
    test_path: str | None = path(None)
    path: str = path()  # after the others, which call path()
    target: str = MISSING
    objective: str = "auto"
    categorical: list[str] = MISSING
    ignore: list[str] = MISSING

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        one_of("dataset.objective", self.objective, OBJECTIVES)
        for key in ("categorical", "ignore"):
            if self.target in getattr(self, key):
                raise UserError(f"dataset.{key} names the target {self.target}: leave it out there.")


@dataclass
class DownloadedTableConfig(TableConfig):
    root: str = path()


@dataclass
class OpenMLConfig(DownloadedTableConfig):
    data_id: int = MISSING
    target: str | None = None
    objective: str = "auto"

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        at_least("dataset.data_id", self.data_id, 1)
        one_of("dataset.objective", self.objective, OBJECTIVES)


register("dataset", "digits", ImagesConfig, Lazy("late_phase.data.digits.load"))
register("dataset", "cifar10", DownloadedConfig, Lazy("late_phase.data.cifar.load", "cifar10"))
register("dataset", "cifar100", DownloadedConfig, Lazy("late_phase.data.cifar.load", "cifar100"))
register("dataset", "image_folder", ImageFolderConfig, Lazy("late_phase.data.image_folder.load"))
register("dataset", "imagenet", ImageNetConfig, Lazy("late_phase.data.imagenet.load"))
register("dataset", "svhn", DownloadedConfig, Lazy("late_phase.data.svhn.load"))
register("dataset", "lsun_resize", DownloadedConfig, Lazy("late_phase.data.ood_images.load_resized", "lsun_resize"))
register(
    "dataset", "tiny_imagenet_resize", DownloadedConfig, Lazy("late_phase.data.ood_images.load_resized", "tiny_imagenet_resize")
)
register("dataset", "photo_patches", ImagesConfig, Lazy("late_phase.data.ood_images.photo_patches"))
register("dataset", "digits_rotated", ImagesConfig, Lazy("late_phase.data.ood_images.digits_rotated"))
register("dataset", "noise", ImagesConfig, Lazy("late_phase.data.ood_images.noise"))
register("dataset", "enwik8", DownloadedTextConfig, Lazy("late_phase.data.text.load_enwik8"))
register("dataset", "pydocs", TextConfig, Lazy("late_phase.data.text.load_pydocs"))
register("dataset", "text_file", TextFileConfig, Lazy("late_phase.data.text.load_file"))
register("dataset", "breast_cancer", TableConfig, Lazy("late_phase.data.tables.load_embedded", "breast_cancer"))
register("dataset", "diabetes", TableConfig, Lazy("late_phase.data.tables.load_embedded", "diabetes"))
register("dataset", "california_housing", DownloadedTableConfig, Lazy("late_phase.data.tables.load_california_housing"))
register("dataset", "openml", OpenMLConfig, Lazy("late_phase.data.tables.load_openml"))
register("dataset", "table_file", TableFileConfig, Lazy("late_phase.data.tables.load_file"))

NAMELESS = ("image_folder", "text_file", "table_file", "openml")
"""Datasets that need more than their name, such as the user's own path: the name alone doesn't say which data they hold."""

CORRUPTED = {
    "cifar10_c": Lazy("late_phase.data.corrupted.load_cifar_c", "cifar10_c"),
    "cifar100_c": Lazy("late_phase.data.corrupted.load_cifar_c", "cifar100_c"),
    "digits_c": Lazy("late_phase.data.corrupted.load_digits_c"),
}

OOD: dict[str, tuple[str, ...]] = {
    "digits": ("photo_patches", "digits_rotated", "noise"),
    "cifar10": ("svhn", "lsun_resize", "tiny_imagenet_resize", "cifar100"),
    "cifar100": ("svhn", "lsun_resize", "tiny_imagenet_resize", "cifar10"),
}
"""Dataset -> the datasets whose test images its models see as out-of-distribution. Those of CIFAR-100 are from Section 3.2."""

CORRUPTED_OF: dict[str, str] = {"digits": "digits_c", "cifar10": "cifar10_c", "cifar100": "cifar100_c"}
"""Dataset -> its corrupted test images."""


def names(task: str) -> list[str]:
    """Returns the names of all datasets for this kind of task."""
    return [name for name, choice in CHOICES["dataset"].items() if choice.config.task == task]


def load(name: str, **options: Any) -> Dataset | Text | Table:
    """Loads the whole dataset ``name``; ``options`` are arguments of its loader, such as ``root``."""
    return build("dataset", name, **options)


def load_corrupted(name: str, **options: Any) -> Corrupted:
    """Loads the corrupted test images ``name``; ``options`` are arguments of their loader, such as ``root``."""
    return CORRUPTED[name](**options)


def root_options(name: str, root: str) -> dict[str, str]:
    """Returns the argument that tells a loader where its files are, or no argument for an embedded dataset.

    ``name`` is a dataset or a set of corrupted images. Downloaded files are in ``root``. ImageNet has many files, which are in a
    subfolder of ``root``.
    """
    loader = CORRUPTED[name] if name in CORRUPTED else CHOICES["dataset"][name].build
    function = loader.resolve() if isinstance(loader, Lazy) else loader
    if "root" not in inspect.signature(function).parameters:
        return {}
    return {"root": str(Path(root) / "imagenet") if name == "imagenet" else root}
