"""The paper's language model (Section 3.4 and Appendix A): an LSTM with one layer."""

from __future__ import annotations

from torch import Tensor, nn

INIT = 0.01
"""All weights are drawn uniformly from -INIT to INIT."""


class LSTM(nn.Module):
    """Predicts the next symbol: ``[positions, streams]`` -> logits ``[positions, streams, symbols]``, and the state afterwards.

    With 205 symbols and 500 units the model has 1,556,730 trained parameters, the paper's 1.56 million. ``nn.LSTM`` adds two biases
    in each layer. One of them stays 0, because two biases would learn twice as fast as one.

    Args:
        symbols: size of the vocabulary.
        units: width of the hidden state.
        embedding: width of the embedding; the size of the vocabulary by default.

    Raises:
        ValueError: a width is below 1.
    """

    def __init__(self, symbols: int, units: int = 500, embedding: int | None = None) -> None:
        super().__init__()
        embedding = symbols if embedding is None else embedding
        for name, width in (("units", units), ("embedding", embedding)):
            if width < 1:
                raise ValueError(f"architecture.{name}={width} is out of range: choose at least 1.")
        self.embedding = nn.Embedding(symbols, embedding)
        self.lstm = nn.LSTM(embedding, units)
        self.head = nn.Linear(units, symbols)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -INIT, INIT)
        nn.init.zeros_(self.lstm.bias_hh_l0).requires_grad_(False)

    def forward(self, symbols: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """
        Args:
            state: h and c ``[1, streams, units]`` before the first position; zeros by default.
        """
        hidden, state = self.lstm(self.embedding(symbols), state)
        return self.head(hidden), state
