"""The plain MLP for tables, as in TabM's experiments (Gorishniy et al., 2024, Appendix)."""

from __future__ import annotations

from torch import nn

from late_phase.layers.dropout import check_dropout


class MLP(nn.Sequential):
    """Blocks of linear layer, ReLU and dropout, and a linear layer at the end: ``[examples, inputs]`` -> ``[examples, outputs]``.

    Args:
        depth: number of blocks.
        width: units in each of them.

    Raises:
        ValueError: the dropout is out of range.
    """

    def __init__(self, inputs: int, outputs: int, depth: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_dropout(dropout)
        for block in range(1, depth + 1):
            self.add_module(f"linear{block}", nn.Linear(inputs if block == 1 else width, width))
            self.add_module(f"relu{block}", nn.ReLU(inplace=True))
            self.add_module(f"dropout{block}", nn.Dropout(dropout))
        self.add_module("head", nn.Linear(width, outputs))
