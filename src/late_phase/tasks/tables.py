"""Regression and classification of the rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from late_phase import architectures, data
from late_phase.architectures import ArchitectureConfig, TableArchitectureConfig
from late_phase.config.choices import options
from late_phase.data import TableConfig
from late_phase.data.batches import Batches
from late_phase.data.table_batches import TableBatches
from late_phase.data.table_encoding import TableEncoding
from late_phase.data.tables import Split
from late_phase.evaluation.metrics import classification_metrics, label_log_probs, nll
from late_phase.evaluation.predictors import predictor_of
from late_phase.evaluation.tables import predict, regression_metrics
from late_phase.support.errors import UserError
from late_phase.support.files import write_tensors
from late_phase.tasks.objective import Classification, Regression
from late_phase.tasks.task import Metrics, Task, TrainedModels, numbers_put_out

if TYPE_CHECKING:
    from late_phase.config.training import TrainConfig


class TableTask(Task):
    """The task of tables: the dataset is a :class:`Split`, the encoding a :class:`TableEncoding`. All inputs are on the device."""

    kind = "tables"

    def __init__(self, dataset: Split, encoding: TableEncoding, device: torch.device) -> None:
        super().__init__(dataset, encoding, device)
        if (dataset.target, dataset.classes) != (encoding.target, encoding.classes and tuple(encoding.classes)):
            raise UserError(
                f"dataset={dataset.name} has the target {in_words(dataset.target, dataset.classes)}, but the model predicts "
                f"{in_words(encoding.target, encoding.classes)}: choose a table with the same target."
            )
        self.objective = Regression(encoding.mean, encoding.std) if encoding.classes is None else Classification()
        encoded = {part: encoding.encode(rows, f"the {part} part of {dataset.name}") for part, rows in dataset.parts().items()}
        self.inputs = {part: inputs.to(device) for part, (inputs, _) in encoded.items()}
        self.targets = {part: targets.to(device) for part, (_, targets) in encoded.items()}

    # The data.

    @classmethod
    def load(cls, config: TableConfig) -> Split:
        table = data.load(config.name, **options(config, TableConfig))
        return table.split(config.validation, config.test, config.subset, config.test_subset, config.split_seed)

    @classmethod
    def encoding_of(cls, config: TableConfig, dataset: Split) -> TableEncoding:
        """Fits the encoding to the training rows."""
        return TableEncoding.of(dataset, config.scaling, config.unseen)

    @classmethod
    def read_encoding(cls, text: str) -> TableEncoding:
        return TableEncoding.from_json(text)

    @classmethod
    def rebuilt(cls, config: ArchitectureConfig, encoding: TableEncoding, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
        return architectures.build(config.name, encoding.inputs, encoding.outputs, **options(config, TableArchitectureConfig))

    def fingerprint(self) -> dict[str, str]:
        return {"table_sha256": self.dataset.sha256}

    def amount(self) -> dict[str, int]:
        return {"rows": len(self.dataset.test)}

    # Training.

    def model(self, config: ArchitectureConfig, weights: str | None = None, copies: int = 1, whole: bool = False) -> nn.Module:
        what = f"architecture={config.name} with dataset={self.dataset.name}"
        if config.task != self.kind:
            raise UserError(f"{what} can't work: choose architecture=mlp for a table.")
        if weights is not None and self.given_encoding(Path(weights)) not in (None, self.encoding):
            raise UserError(
                f"architecture.weights={weights} was trained on other columns or rows than {self.dataset.name} has: choose weights "
                "of the same table and split."
            )
        try:
            sizes, own = (self.encoding.inputs, self.encoding.outputs), options(config, TableArchitectureConfig)
            architectures.check_size(config.name, sizes, own, copies)
            return architectures.build(config.name, *sizes, weights=weights, whole=whole, **own)
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{what}: {error}") from error

    def check(self, config: TrainConfig, model: nn.Module) -> None:
        """Refuses a batch size above the number of training rows."""
        rows = len(self.dataset.train)
        if config.batch_size > rows:
            raise UserError(f"batch_size={config.batch_size} is larger than the training part ({rows} rows): choose a smaller one.")

    def activations(self, config: TrainConfig, model: nn.Module) -> int:
        """Returns how many numbers the layers with weights put out for one row."""
        return numbers_put_out(model, torch.zeros(1, self.encoding.inputs))[0]

    def batches(self, config: TrainConfig) -> Batches:
        return TableBatches(self.inputs["train"], self.targets["train"], config.batch_size, config.seed, self.dataset.sha256)

    def measured(self) -> list[str]:
        names = ("rmse", "r2") if self.encoding.classes is None else ("nll_nats", "accuracy")
        return [f"{part}_{name}" for part in self.dataset.held_out() for name in names]

    @staticmethod
    def headline(row: Mapping[str, Any]) -> str | None:
        if row.get("test_rmse") is not None:
            return f"RMSE {row['test_rmse']:.4g}"
        return None if row.get("test_accuracy") is None else f"{row['test_accuracy']:z.1%}"

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Returns RMSE and R², or NLL in nats and accuracy, of the parts held out."""
        row = {}
        for part, members in predict(predictor_of(model), self._held_out(), self.objective.predictions).items():
            row |= self._metrics(part, members)
        return {name: row[name.removesuffix("_nats")] for name in self.measured()}

    # Evaluation.

    def evaluate(self, models: TrainedModels) -> Metrics:
        """Returns the metrics of each part and predictor, and writes all members' predictions, a file for each part.

        A regression has RMSE and R², a classification accuracy, NLL in nats and ECE. Training rows have RMSE or NLL.
        """
        metrics: Metrics = {}
        kept = {part: {"targets": self._targets(part)} for part in self.inputs}
        with models.autocast():
            for name, predictor in models.predictors.items():
                row = metrics.setdefault(name, {})
                for part, members in predict(predictor, self.inputs, self.objective.predictions, models.seed).items():
                    row |= self._metrics(part, members)
                    kept[part][name] = members
        for part, tensors in kept.items():
            write_tensors(models.predictions / f"{part}.safetensors", tensors)
        return metrics

    @staticmethod
    def in_words(metrics: Mapping[str, float]) -> str:
        if "test_rmse" in metrics:
            return f"test RMSE {metrics['test_rmse']:.4g}, R² {metrics['test_r2']:z.4f}"
        return f"test accuracy {metrics['test_accuracy']:z.2%}, NLL {metrics['test_nll']:z.4f} nats, ECE {metrics['test_ece']:z.2%}"

    def _held_out(self) -> dict[str, Tensor]:
        return {part: self.inputs[part] for part in self.dataset.held_out()}

    def _targets(self, part: str) -> Tensor:
        """Returns a part's targets, in their unit: labels int64 or numbers float64, on the CPU."""
        return torch.from_numpy(self.dataset.parts()[part].targets)

    def _metrics(self, part: str, members: Tensor) -> dict[str, float]:
        """Returns the metrics of an ensemble's predictions for a part."""
        predicted, targets = self.objective.combine(members), self._targets(part)
        if self.encoding.classes is None:
            metrics = regression_metrics(part, predicted, targets)
            return {"train_rmse": metrics["train_rmse"]} if part == "train" else metrics
        if part == "train":
            return {"train_loss": nll(label_log_probs(predicted, targets))}
        return classification_metrics(part, predicted, targets)


def in_words(target: str, classes: tuple[str, ...] | list[str] | None) -> str:
    """Returns a target in words."""
    return f"{target}, a number" if classes is None else f"{target}, one of {', '.join(classes)}"
