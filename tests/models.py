"""Small models of several kinds for the tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Normed(nn.Module):
    """A module of its own around BatchNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"norm": nn.BatchNorm2d(channels)})

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.inner["norm"](x))


class Nested(nn.Module):
    """Custom modules in custom modules, ``[examples, 3, 8, 8]`` -> ``[examples, 5]``, and a parameter of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.blocks = nn.ModuleList([nn.Sequential(Normed(6), nn.Conv2d(6, 6, 3, padding=1)) for _ in range(2)])
        self.scale = nn.Parameter(torch.ones(6, 1, 1))
        self.out = Normed(6)
        self.classifier = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + self.scale * block(x)
        return self.classifier(self.out(x).mean((2, 3)))


def plain() -> nn.Sequential:
    """conv-BN-ReLU-linear-BN-linear, ``[examples, 3, 8, 8]`` -> ``[examples, 5]``."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 36, 8),
        nn.BatchNorm1d(8),
        nn.Linear(8, 5),
    )


def minibatches(n: int, dtype: torch.dtype = torch.float32, size: int = 8, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """``n`` minibatches of 7 images and labels, for the models here."""
    random = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(7, 3, size, size, generator=random, dtype=dtype), torch.randint(5, (7,), generator=random)) for _ in range(n)
    ]
