"""Small models of several kinds for the tests, and their training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from late_phase import LatePhase, batchnorm, head

SGD = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-3}


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


def sgd(model: nn.Module, **options: float | bool) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), **(SGD | options))


def train(model: nn.Module, step: torch.optim.Optimizer, batches: list[tuple[Tensor, Tensor]]) -> list[float]:
    """The loop of a user; returns the losses."""
    losses = []
    for x, y in batches:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        step.step()
        step.zero_grad()
        losses.append(loss.item())
    return losses


def spawned(K: int = 3, sigma0: float = 0.3, steps: int = 4, **options: object) -> tuple[nn.Module, LatePhase]:
    """A model with K members that have been trained for some steps."""
    torch.manual_seed(0)
    model = plain()
    late = LatePhase(model, sgd(model), batchnorm() + head(), K, sigma0, **options)
    late.spawn()
    train(model, late, minibatches(steps))
    return model, late


def assert_same(a: nn.Module, b: nn.Module) -> None:
    """Bit for bit, running statistics included."""
    for (name, one), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
