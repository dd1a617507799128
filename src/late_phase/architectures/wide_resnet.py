"""Pre-activation wide residual networks (Zagoruyko & Komodakis, 2016)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from late_phase.layers.dropout import check_dropout


class Block(nn.Module):
    """BN-ReLU-conv twice, plus a shortcut. Dropout comes before the second convolution.

    The shortcut is the input or, where shapes change, a 1 x 1 convolution of the first activation.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        changes_shape = stride != 1 or channels_in != channels_out
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False) if changes_shape else None

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x), inplace=True)
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = F.relu(self.bn2(self.conv1(out)), inplace=True)
        return self.conv2(self.dropout(out)).add_(shortcut)


class WideResNet(nn.Module):
    """WRN-``depth``-``width``: images ``[examples, channels, height, width]`` -> logits ``[examples, classes]``.

    Several variants of this network are in use. This one has the stride in a block's first convolution, takes the shortcut from the
    activated input, and has no biases in convolutions. "Faithfulness" in CONTRIBUTING.md says why.

    Raises:
        ValueError: the depth is not 6 n + 4, or another number is out of range.
    """

    def __init__(self, channels: int, classes: int, depth: int = 28, width: int = 10, dropout: float = 0.0) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"architecture.depth={depth} is not 6 n + 4: choose 10, 16, 22, 28, 34, 40, ...")
        if width < 1:
            raise ValueError(f"architecture.width={width} is out of range: choose an integer of at least 1.")
        check_dropout(dropout)
        widths = [16, 16 * width, 32 * width, 64 * width]
        self.conv = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.groups = nn.Sequential()
        for channels_in, channels_out, stride in zip(widths[:-1], widths[1:], (1, 2, 2), strict=True):
            group = [Block(channels_in, channels_out, stride, dropout)]
            group += [Block(channels_out, channels_out, 1, dropout) for _ in range(blocks - 1)]
            self.groups.append(nn.Sequential(*group))
        self.bn = nn.BatchNorm2d(widths[-1])
        self.head = nn.Linear(widths[-1], classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        out = self.groups(self.conv(images))
        out = F.relu(self.bn(out), inplace=True)
        return self.head(out.mean((2, 3)))
