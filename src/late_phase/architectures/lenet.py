"""The paper's small ConvNet (Appendix A): LeNet-5 with ReLU and with BatchNorm after each activation."""

from __future__ import annotations

from torch import Tensor, nn

from late_phase.layers.dropout import check_dropout
from late_phase.layers.max_pool import MaxPool2x2


class LeNet(nn.Sequential):
    """LeNet-5: images ``[examples, channels, 32, 32]`` -> logits ``[examples, classes]``.

    The layer sizes are LeNet-5's: 6 and 16 filters of 5 x 5, then 120 and 84 units. The paper states neither the kind of pooling
    nor its place. Dropout comes after the BatchNorm of the 120 units.

    Args:
        pooling: of 2 x 2 pixels, ``max`` or ``average``.
        pooling_first: pools the convolutions' outputs, as LeNet-5 does, instead of those of BatchNorm.

    Raises:
        ValueError: the dropout is out of range, the pooling is unknown, or ``forward`` gets images of another size.
    """

    def __init__(
        self, channels: int, classes: int, pooling: str = "max", pooling_first: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        if pooling not in ("max", "average"):
            raise ValueError(f"architecture.pooling={pooling} is unknown: choose max or average.")

        def normalized(number: int, filters: int) -> dict[str, nn.Module]:
            pool = {f"pool{number}": MaxPool2x2() if pooling == "max" else nn.AvgPool2d(2)}
            rest = {f"relu{number}": nn.ReLU(inplace=True), f"bn{number}": nn.BatchNorm2d(filters)}
            return pool | rest if pooling_first else rest | pool

        layers = {
            "conv1": nn.Conv2d(channels, 6, 5),
            **normalized(1, 6),
            "conv2": nn.Conv2d(6, 16, 5),
            **normalized(2, 16),
            "flatten": nn.Flatten(),
            "fc1": nn.Linear(16 * 5 * 5, 120),
            "relu3": nn.ReLU(inplace=True),
            "bn3": nn.BatchNorm1d(120),
            "dropout": nn.Dropout(dropout),
            "fc2": nn.Linear(120, 84),
            "relu4": nn.ReLU(inplace=True),
            "bn4": nn.BatchNorm1d(84),
            "head": nn.Linear(84, classes),
        }
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != (32, 32):
            size = " x ".join(map(str, images.shape[-2:]))
            raise ValueError(f"architecture.name=lenet takes images of 32 x 32 pixels, not {size}: set dataset.image_size=32.")
        return super().forward(images)
