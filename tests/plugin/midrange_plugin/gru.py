"""A language model of another kind than ours."""

from __future__ import annotations

from torch import nn


class GRU(nn.Module):
    """Symbols ``[positions, streams]`` -> logits ``[positions, streams, symbols]``, and the state after them."""

    def __init__(self, symbols, width):
        super().__init__()
        self.encoder = nn.Embedding(symbols, width)
        self.layers = nn.GRU(width, width, num_layers=2)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.1)
        self.decoder = nn.Linear(width, symbols)

    def forward(self, symbols, state=None):
        hidden, after = self.layers(self.encoder(symbols), None if state is None else state[0])
        return self.decoder(self.dropout(self.norm(hidden))), (after,)
