"""Pyramidal residual networks (Han et al., 2017) with ShakeDrop (Yamada et al., 2018)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from late_phase.layers.shakedrop import ShakeDrop


class Block(nn.Module):
    """BN-conv-BN-ReLU-conv-BN plus the input. Zeros fill the input's new channels; at stride 2 it is averaged over 2 x 2 pixels."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, survival: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.shakedrop = ShakeDrop(survival) if survival < 1 else nn.Identity()
        # Rounds odd sizes up, as the convolution does.
        self.pool = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.new_channels = channels_out - channels_in

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn2(self.conv1(self.bn1(x))), inplace=True)
        out = self.shakedrop(self.bn3(self.conv2(out)))
        return out.add_(F.pad(self.pool(x), (0, 0, 0, 0, 0, self.new_channels)))


class PyramidNet(nn.Module):
    """PyramidNet-``depth`` of basic blocks: images ``[examples, channels, height, width]`` -> logits ``[examples, classes]``.

    Args:
        alpha: channels that all blocks together add, in equal shares, to the first convolution's 16.
        shakedrop: rate at which ShakeDrop scales the last block. The l-th of L blocks has l / L of it. 0 means no ShakeDrop.

    Raises:
        ValueError: the depth is not 6 n + 2, or another number is out of range.
    """

    def __init__(self, channels: int, classes: int, depth: int = 110, alpha: int = 270, shakedrop: float = 0.5) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"architecture.depth={depth} is not 6 n + 2: choose 8, 14, 20, ..., 110, ...")
        if alpha < 0:
            raise ValueError(f"architecture.alpha={alpha} is out of range: choose an integer of at least 0.")
        if not 0 <= shakedrop < 1:
            raise ValueError(f"architecture.shakedrop={shakedrop} is out of range: choose a number of at least 0 and below 1.")
        total = 3 * blocks
        widths = [round(16 + alpha * i / total) for i in range(total + 1)]
        self.conv = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.groups = nn.Sequential(*[nn.Sequential() for _ in range(3)])
        for i in range(total):
            group, place = divmod(i, blocks)
            stride = 2 if group and not place else 1
            self.groups[group].append(Block(widths[i], widths[i + 1], stride, survival=1 - (i + 1) / total * shakedrop))
        self.bn2 = nn.BatchNorm2d(widths[-1])
        self.head = nn.Linear(widths[-1], classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        out = self.groups(self.bn1(self.conv(images)))
        out = F.relu(self.bn2(out), inplace=True)
        return self.head(out.mean((2, 3)))
