"""Architectures by name. Each is built from its data's sizes and its own keys in the config group ``architecture``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING

from late_phase.config.choices import CHOICES, register
from late_phase.config.refusals import at_least
from late_phase.config.training import Chosen, path
from late_phase.support.lazy import Lazy
from late_phase.support.memory import NUMBER, check_memory

if TYPE_CHECKING:
    from torch import nn

    from late_phase.config.training import TrainConfig


@dataclass
class ArchitectureConfig(Chosen):
    """
    Attributes:
        task: the kind of task that the architecture is for, a name in ``late_phase.tasks.TASKS``.
        bf16_pays: whether bf16 was measured to be faster than fp32 on a CPU with instructions for it.
    """

    task: ClassVar[str] = ""
    bf16_pays: ClassVar[bool] = False

    weights: str | None = path(None)


@dataclass
class ImageArchitectureConfig(ArchitectureConfig):
    task: ClassVar[str] = "images"

    channels_last: bool = False
    mc_samples: int = 10

    def check(self, config: TrainConfig) -> None:
        at_least("architecture.mc_samples", self.mc_samples, 1)


@dataclass
class LeNetConfig(ImageArchitectureConfig):
    pooling: str = "max"
    pooling_first: bool = False
    dropout: float = 0.0


@dataclass
class WideResNetConfig(ImageArchitectureConfig):
    bf16_pays: ClassVar[bool] = True

    channels_last: bool = True
    depth: int = MISSING
    width: int = MISSING
    dropout: float = 0.0


@dataclass
class PyramidNetConfig(ImageArchitectureConfig):
    unread: ClassVar[tuple[str, ...]] = ("mc_samples",)

    depth: int = MISSING
    alpha: int = MISSING
    shakedrop: float = MISSING


@dataclass
class ViTConfig(ImageArchitectureConfig):
    bf16_pays: ClassVar[bool] = True
    unread: ClassVar[tuple[str, ...]] = ("mc_samples",)

    patch: int = MISSING
    depth: int = MISSING
    heads: int = MISSING
    width: int = MISSING


@dataclass
class LSTMConfig(ArchitectureConfig):
    task: ClassVar[str] = "text"
    bf16_pays: ClassVar[bool] = True

    units: int = MISSING
    embedding: int | None = None


@dataclass
class GPTConfig(ArchitectureConfig):
    task: ClassVar[str] = "text"

    depth: int = MISSING
    heads: int = MISSING
    width: int = MISSING
    context: int = MISSING
    bias: bool = False


@dataclass
class TableArchitectureConfig(ArchitectureConfig):
    task: ClassVar[str] = "tables"

    mc_samples: int = 10

    def check(self, config: TrainConfig) -> None:
        at_least("architecture.mc_samples", self.mc_samples, 1)


@dataclass
class MLPConfig(TableArchitectureConfig):
    depth: int = MISSING
    width: int = MISSING
    dropout: float = 0.0

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        at_least("architecture.depth", self.depth, 1)
        at_least("architecture.width", self.width, 1)


register("architecture", "lenet", LeNetConfig, Lazy("late_phase.architectures.lenet.LeNet"))
register("architecture", "wrn", WideResNetConfig, Lazy("late_phase.architectures.wide_resnet.WideResNet"))
register("architecture", "pyramidnet", PyramidNetConfig, Lazy("late_phase.architectures.pyramidnet.PyramidNet"))
register("architecture", "vit", ViTConfig, Lazy("late_phase.architectures.vit.ViT"))
for _name in ("resnet50", "resnet152", "densenet161"):
    register("architecture", _name, ImageArchitectureConfig, Lazy("late_phase.architectures.imagenet.build", _name))
register("architecture", "lstm", LSTMConfig, Lazy("late_phase.architectures.lstm.LSTM"))
register("architecture", "gpt", GPTConfig, Lazy("late_phase.architectures.gpt.GPT"))
register("architecture", "mlp", MLPConfig, Lazy("late_phase.architectures.mlp.MLP"))

SHALLOW = 120
"""Very deep networks are counted at a depth between this and twice this, which is fast. It is a multiple of 6, as depths are
6 n + a constant."""


def build(name: str, *sizes: int, weights: str | None = None, whole: bool = False, **options: Any) -> nn.Module:
    """Returns the architecture ``name`` with new weights from torch's global generator, or with ``weights``.

    Args:
        sizes: numbers of channels and classes for images, number of symbols for a text, numbers of inputs and outputs for a table.
        weights: weights that replace the new ones, see ``pretrained.load``.
        whole: whether the last layer must fit as well, see ``pretrained.load``.
    """
    model = CHOICES["architecture"][name].build(*sizes, **options)
    if weights is not None:
        from late_phase.architectures.pretrained import load  # imported here, as it imports torchvision, which takes seconds

        load(model, name, weights, whole)
    return model


def parameters(name: str, *sizes: int, **options: Any) -> int:
    """Returns the number of parameters that :func:`build` would make, without using memory or random numbers.

    It is 0 for options that :func:`build` refuses, and 2^63 for sizes that torch can't handle. For a very deep network, a shallower
    one is counted and scaled in proportion, because building many layers takes long.
    """
    import torch  # imported here, because it takes seconds and names of architectures are checked without it

    depth = shallower = options.get("depth", 0)
    if depth > 2 * SHALLOW:
        shallower = SHALLOW + depth % SHALLOW
        options = options | {"depth": shallower}
    try:
        with torch.device("meta"):
            model = CHOICES["architecture"][name].build(*sizes, **options)
    except ValueError:
        return 0
    except (RuntimeError, TypeError, OverflowError):  # torch raises these for sizes that are too large for it
        return 2**63
    count = sum(parameter.numel() for parameter in model.parameters())
    return count * depth // shallower if depth > shallower else count


def check_size(name: str, sizes: tuple[int, ...], options: dict[str, Any], copies: int) -> None:
    """Refuses an architecture if ``copies`` copies of its weights don't fit into the memory.

    Raises:
        UserError: they don't fit.
    """
    count = parameters(name, *sizes, **options)
    own = "".join(f", {key}={value}" for key, value in options.items() if value is not None)
    check_memory(f"architecture={name}{own} with {count:,} parameters", NUMBER * copies * count, "choose smaller sizes.")
