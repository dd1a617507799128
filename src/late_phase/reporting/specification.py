"""Table 7, read from a model: which hypernetwork generates which weight."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from late_phase.layers.hypernetwork import Hypernetwork

TITLES = ("layer", "convolution", "weight (Base-PS)", "group", "hypernetwork (Hnet-PS)", "embedding (Emb-PS)")


def generated_weights(model: nn.Module) -> list[list[str]]:
    """Returns a row for each generated convolution of a model, below a row of titles.

    Shapes are in the paper's order: weight [out, height, width, in], hypernetwork [out, height, width, unit, d], embedding
    [d, n]. Groups are numbered in the order of their first layers.
    """
    rows, groups = [list(TITLES)], {}
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Conv2d) or not is_parametrized(layer, "weight"):
            continue
        hypernetwork, embedding = layer.parametrizations.weight[0], layer.parametrizations.weight.original
        if isinstance(hypernetwork, Hypernetwork):
            height, width = layer.kernel_size
            weight = [layer.out_channels, height, width, layer.in_channels]
            group = groups.setdefault(hypernetwork, len(groups))
            convolution = f"{layer.in_channels} × [{height} × {width}] × {layer.out_channels}"
            rows.append([name, convolution, str(weight), str(group), str(list(hypernetwork.shape)), str(list(embedding.shape))])
    return rows
