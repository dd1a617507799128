"""Prediction of the next byte of a text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from late_phase import architectures, data
from late_phase.architectures import ArchitectureConfig
from late_phase.config.choices import CHOICES, options
from late_phase.data import TextConfig
from late_phase.data.batches import Batches
from late_phase.data.segments import Segments, context_of
from late_phase.data.text import Text, Vocabulary
from late_phase.data.windows import Windows
from late_phase.evaluation import text
from late_phase.evaluation.predictors import predictor_of
from late_phase.support.errors import UserError
from late_phase.support.seeding import generator
from late_phase.tasks.objective import Classification
from late_phase.tasks.task import Metrics, Task, TrainedModels, numbers_put_out

if TYPE_CHECKING:
    from late_phase.config.training import TrainConfig


class TextTask(Task):
    """The task of texts: the dataset is a :class:`Text`, the encoding a :class:`Vocabulary`, the bytes that the model knows.

    The text stays on the CPU, where it may be mapped into memory. A model takes a segment and a state, and returns logits and the
    state after them; see :data:`late_phase.data.segments.RecurrentModel`. A model without a state is trained on random windows, and
    evaluated on windows that follow each other.
    """

    kind = "text"
    objective = Classification()

    # The data.

    @classmethod
    def load(cls, config: TextConfig) -> Text:
        return data.load(config.name, **options(config, TextConfig)).take(config.subset, config.test_subset)

    @classmethod
    def encoding_of(cls, config: TextConfig, dataset: Text) -> Vocabulary:
        """Returns the text's own vocabulary."""
        return Vocabulary.of(dataset)

    @classmethod
    def read_encoding(cls, text: str) -> Vocabulary:
        return Vocabulary.from_json(text)

    @classmethod
    def rebuilt(cls, config: ArchitectureConfig, encoding: Vocabulary, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
        return architectures.build(config.name, len(encoding), **options(config, ArchitectureConfig))

    def fingerprint(self) -> dict[str, str]:
        return {"text_sha256": self.dataset.sha256}

    def amount(self) -> dict[str, int]:
        return {"bytes": len(self.dataset.test)}

    # Training.

    def model(self, config: ArchitectureConfig, weights: str | None = None, copies: int = 1, whole: bool = False) -> nn.Module:
        what = f"architecture={config.name} with dataset={self.dataset.name}"
        if config.task != self.kind:
            others = [name for name, choice in CHOICES["architecture"].items() if choice.config.task == self.kind]
            raise UserError(f"{what} can't work: choose architecture={', '.join(others)} for a text.")
        if weights is not None and self.given_encoding(Path(weights)) not in (None, self.encoding):
            raise UserError(
                f"architecture.weights={weights} was trained on a text with other bytes than {self.dataset.name} has: choose "
                "weights of the same text."
            )
        try:
            own = options(config, ArchitectureConfig)
            architectures.check_size(config.name, (len(self.encoding),), own, copies)
            return architectures.build(config.name, len(self.encoding), weights=weights, whole=whole, **own)
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{what}: {error}") from error

    def check(self, config: TrainConfig, model: nn.Module) -> None:
        """Checks that the text is long enough for one minibatch, and that keys of the dataset go together with the model."""
        streams, length, there = config.batch_size, config.dataset.sequence_length, len(self.dataset.train)
        context, minibatches = context_of(model), config.dataset.minibatches
        if context not in (None, length):
            raise UserError(
                f"architecture.context={context} differs from dataset.sequence_length={length}, the length of the windows that "
                "training reads: set both to the same number."
            )
        if context is None and minibatches is not None:
            raise UserError(
                f"dataset.minibatches={minibatches} is for models that read random windows, but architecture="
                f"{config.architecture.name} reads the whole text in an epoch: leave it out."
            )
        if streams * length + 1 > there:
            read = "streams" if context is None else "windows"
            raise UserError(
                f"batch_size={streams} {read} of dataset.sequence_length={length} need {streams * length + 1} bytes to train on, "
                f"but {self.dataset.name} has {there}: choose smaller values, or a longer text."
            )

    def activations(self, config: TrainConfig, model: nn.Module) -> int:
        """Returns how many numbers training holds at once for one stream of a segment."""
        layers, logits = numbers_put_out(model, torch.zeros(1, 1, dtype=torch.int64))
        return config.dataset.sequence_length * (layers + 2 * logits)  # for logits also their logarithms and gradients

    def batches(self, config: TrainConfig) -> Batches:
        settings, text = config.dataset, (self.dataset.train, self.encoding, config.batch_size, config.dataset.sequence_length)
        if context_of(config.architecture) is None:
            return Segments(*text, settings.carry_state, self.device, self.dataset.sha256)
        return Windows(*text, config.seed, self.device, settings.minibatches, self.dataset.sha256)

    def measured(self) -> list[str]:
        return [f"{part}_bpc" for part in self.dataset.held_out()]

    @staticmethod
    def headline(row: Mapping[str, Any]) -> str | None:
        return None if row["test_bpc"] is None else f"{row['test_bpc']:z.3f} bits per character"

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Returns ``<part>_bpc`` of the parts held out."""
        return text.measure({"single": predictor_of(model)}, self.dataset.held_out(), self.encoding, self.device)["single"]

    # Evaluation.

    def evaluate(self, models: TrainedModels) -> Metrics:
        """Returns the bits per character of each part of the text; see :func:`late_phase.evaluation.text.measure`."""
        with models.autocast():
            return text.measure(models.predictors, self.dataset.parts(), self.encoding, self.device)

    @staticmethod
    def in_words(metrics: Mapping[str, float]) -> str:
        parts = (f"{part} {metrics[f'{part}_bpc']:z.4f}" for part in ("train", "validation", "test"))
        return f"{', '.join(parts)} bits per character"

    def show(self, models: TrainedModels) -> str:
        """Returns the text that the single model generates after the last bytes of the validation part; it is always the same."""
        prompt = self.encoding.encode(self.dataset.validation[-text.PROMPT :]).to(self.device)
        with models.autocast():
            for model in models.predictors["single"]():
                drawn = text.generate(model, prompt, text.SAMPLE, generator(models.seed, "sample"))
        return text.printable(self.encoding.decode(drawn)) + "\n"
