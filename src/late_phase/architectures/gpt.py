"""A small GPT (Radford et al., 2019), by default of the size that nanoGPT's README proposes for a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from late_phase.architectures.transformer import Block, check_sizes, initialize


class GPT(nn.Module):
    """Predicts the next symbol: ``[positions, windows]`` -> logits ``[positions, windows, symbols]``, and an empty state.

    It is a :data:`late_phase.data.segments.RecurrentModel` that remembers nothing: each window is predicted from its own symbols.
    The embedding and the last layer are one matrix. With 65 symbols and all defaults there are 804,096 parameters.

    Args:
        symbols: size of the vocabulary.
        depth: number of blocks.
        heads: heads of each attention; the width must be a multiple.
        width: width of the residual stream.
        context: most positions of a window.
        bias: whether linear layers and LayerNorms have biases.

    Raises:
        ValueError: a size is out of range, or ``forward`` gets a window of more than ``context`` positions.
    """

    def __init__(
        self, symbols: int, depth: int = 4, heads: int = 4, width: int = 128, context: int = 64, bias: bool = False
    ) -> None:
        super().__init__()
        check_sizes(depth=depth, heads=heads, width=width, context=context)
        self.context = context
        self.embedding = nn.Embedding(symbols, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads, causal=True, bias=bias) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, bias=bias)
        self.head = nn.Linear(width, symbols, bias=False)
        self.head.weight = self.embedding.weight
        initialize(self)

    def forward(self, symbols: Tensor, state: tuple[()] | None = None) -> tuple[Tensor, tuple[()]]:
        """
        Args:
            state: empty, because a window depends on nothing before it.
        """
        length = len(symbols)
        if length > self.context:
            raise ValueError(
                f"a window has {length} positions, more than architecture.context={self.context}: choose shorter ones."
            )
        x = self.embedding(symbols.T) + self.positions(torch.arange(length, device=symbols.device))
        return self.head(self.norm(self.blocks(x))).transpose(0, 1), ()
