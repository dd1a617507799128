"""Hypernetworks with late-phase weight embeddings (Section 2.2, Table 7), which generate a plain model's convolution weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized, register_parametrization

from late_phase.layers.fold import refuse_shared
from late_phase.selection import Rule, Selection

FIRST, OWN, SHARED = 10, 7, 14
"""Size d of the embeddings (Table 7): of the first convolution, of others with their own hypernetwork, of those that share one."""


class Hypernetwork(nn.Module):
    """Computes W = θ φ for all layers of a group: embedding φ ``[d, n]`` -> weight ``[out, n * unit, height, width]``.

    θ has as many elements as Table 7's tensor of shape [out, height, width, unit, d]. It is stored as the matrix ``[out * height *
    width * unit, d]``, because ``model.to(memory_format=torch.channels_last)`` fails on parameters with five dimensions. The
    product is reshaped to [out, height, width, unit * n]. Column j of φ thus makes the input channels j, n + j, 2 n + j, ...

    θ is drawn from the Kaiming normal distribution of the group's widest layer. The weights have that distribution's variance if
    the columns of φ have norm 1.

    Args:
        out: output channels of the layers.
        kernel: height and width of their kernels.
        unit: number of input channels that each column of φ makes.
        d: size of a column of φ.
        widest: input channels of the widest layer.
        generator: source of θ, on any device; the global CPU generator by default.
    """

    def __init__(
        self, out: int, kernel: tuple[int, int], unit: int, d: int, widest: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.shape = (out, *kernel, unit, d)
        theta = torch.empty(math.prod(self.shape[:-1]), d, device=generator.device if generator else "cpu")
        self.theta = nn.Parameter(theta.normal_(0, math.sqrt(2 / (widest * math.prod(kernel))), generator=generator))

    def forward(self, embedding: Tensor) -> Tensor:
        weight = (self.theta @ embedding).view(*self.shape[:3], -1)
        # The permuted weight is in channels_last. contiguous() leaves the choice of the memory format to the model.
        return weight.permute(0, 3, 1, 2).contiguous()


def generate_convolutions(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Makes hypernetworks generate the weights of all ``nn.Conv2d`` of a plain model, in place.

    The weights are newly initialized. :func:`late_phase.layers.fold.fold` turns the model back into a plain one. Build the
    optimizer after this.

    Convolutions share a hypernetwork if they have the same number of output channels and the same kernel, larger than 1 x 1, and if
    their number of input channels is a multiple n of the unit. The unit is half of the output channels. Every other convolution,
    and always the first one, has its own hypernetwork, whose unit is all of its input channels. On WRN 28-10 this gives Table 7.
    Biases stay parameters.

    Embeddings are pseudo-orthogonal over the layers: embeddings of one shape in a group are the rows of an orthogonal matrix,
    divided by the mean norm of the embeddings' columns.

    Args:
        generator: source of the hypernetworks and embeddings, on any device; the global CPU generator by default.

    Raises:
        ValueError: the model has no convolution, or one with groups, with a parametrization or with a shared weight.
    """
    names = {layer: name or "model" for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    if not names:
        raise ValueError(f"{type(model).__name__} has no nn.Conv2d: hypernetworks need one, whose weights they generate.")
    for layer, name in names.items():
        if layer.groups > 1:
            raise ValueError(f"convolution {name} has groups={layer.groups}: hypernetworks need convolutions with groups=1.")
        if is_parametrized(layer, "weight"):
            raise ValueError(
                f"convolution {name} has a parametrized weight already: call generate_convolutions() once, "
                "before any other parametrization."
            )
    refuse_shared(model, [(layer, "weight") for layer in names])

    groups: dict[tuple, list[nn.Conv2d]] = {}
    for i, layer in enumerate(names):
        half, odd = divmod(layer.out_channels, 2)
        shares = i > 0 and layer.kernel_size != (1, 1) and not odd and layer.in_channels % half == 0
        unit, d = (half, SHARED) if shares else (layer.in_channels, OWN if i else FIRST)
        groups.setdefault((layer.out_channels, layer.kernel_size, unit, d, None if shares else i), []).append(layer)
    for (out, kernel, unit, d, _), layers in groups.items():
        widest = max(layer.in_channels for layer in layers)
        hypernetwork = Hypernetwork(out, kernel, unit, d, widest, generator).to(layers[0].weight)
        by_n: dict[int, list[nn.Conv2d]] = {}
        for layer in layers:
            by_n.setdefault(layer.in_channels // unit, []).append(layer)
        for n, alike in by_n.items():
            for layer, embedding in zip(alike, _pseudo_orthogonal(len(alike), d, n, generator), strict=True):
                layer.weight = nn.Parameter(embedding.to(layer.weight))
                register_parametrization(layer, "weight", hypernetwork, unsafe=True)  # unsafe allows another shape


def embeddings() -> Selection:
    """Selects the embeddings of all generated weights (Section 2.2, hypernetworks with late-phase weight embeddings)."""

    def pick(model: nn.Module) -> list[str]:
        return [
            f"{name}.original"
            for name, module in model.named_modules()
            if isinstance(module, ParametrizationList) and isinstance(module[0], Hypernetwork)
        ]

    return Selection(Rule("embeddings()", pick))


def _pseudo_orthogonal(layers: int, d: int, n: int, generator: torch.Generator | None) -> Tensor:
    """Returns embeddings ``[layers, d, n]``, see :func:`generate_convolutions`."""
    matrix = torch.empty(layers, d * n, device=generator.device if generator else "cpu")
    embeddings = nn.init.orthogonal_(matrix, generator=generator).view(layers, d, n)
    return embeddings / embeddings.norm(dim=1).mean()
