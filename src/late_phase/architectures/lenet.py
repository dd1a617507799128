"""The paper's small ConvNet (Appendix A): LeNet-5 with ReLU and with BatchNorm after each activation."""

from __future__ import annotations

from torch import Tensor, nn

from late_phase.layers.dropout import check_dropout
from late_phase.layers.max_pool import MaxPool2x2


class LeNet(nn.Sequential):
    """LeNet-5: images ``[examples, channels, 32, 32]`` -> logits ``[examples, classes]``.

    The layer sizes are LeNet-5's: 6 and 16 filters of 5 x 5, then 120 and 84 units. The paper doesn't state the pooling; this is
    max pooling. Dropout comes after the BatchNorm of the 120 units.

    Raises:
        ValueError: the dropout is out of range, or ``forward`` gets images of another size.
    """

    def __init__(self, channels: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_dropout(dropout)
        layers = {
            "conv1": nn.Conv2d(channels, 6, 5),
            "relu1": nn.ReLU(inplace=True),
            "bn1": nn.BatchNorm2d(6),
            "pool1": MaxPool2x2(),
            "conv2": nn.Conv2d(6, 16, 5),
            "relu2": nn.ReLU(inplace=True),
            "bn2": nn.BatchNorm2d(16),
            "pool2": MaxPool2x2(),
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
