"""A transformer's blocks, with LayerNorm before attention and before the two linear layers (pre-LN)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

INIT = 0.02
"""Standard deviation of all weight matrices at the start (Radford et al., 2019)."""


class Attention(nn.Module):
    """Self-attention with several heads: ``[examples, positions, width]`` -> the same shape.

    Each head computes softmax(Q Kᵀ / √(width / heads)) V (Vaswani et al., 2017, Eq. 1).

    Args:
        causal: whether a position sees only itself and those before it.
    """

    def __init__(self, width: int, heads: int, causal: bool, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(norm(x)), then x + layers(norm(x)), whose hidden layer is 4 times as wide: ``[examples, positions, width]``."""

    def __init__(self, width: int, heads: int, causal: bool, bias: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, bias=bias)
        self.attention = Attention(width, heads, causal, bias)
        self.norm2 = nn.LayerNorm(width, bias=bias)
        self.expand = nn.Linear(width, 4 * width, bias=bias)
        self.gelu = nn.GELU()
        self.shrink = nn.Linear(4 * width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.shrink(self.gelu(self.expand(self.norm2(x))))


def initialize(model: nn.Module) -> None:
    """Draws all weights anew, as in GPT-2 (Radford et al., 2019).

    Matrices are normal with standard deviation ``INIT``. In a layer whose output is added to the residual stream of d blocks, it is
    ``INIT`` / √(2 d). Biases are 0; LayerNorm stays the identity.
    """
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    added = {layer for block in blocks for layer in (block.attention.out, block.shrink)}
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=INIT / math.sqrt(2 * len(blocks)) if module in added else INIT)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)


def check_sizes(**sizes: int) -> None:
    """Refuses sizes below 1, and a ``width`` that is not a multiple of ``heads``.

    Raises:
        ValueError: the message names the key, the value and the cure.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"architecture.{name}={size} is out of range: choose at least 1.")
    width, heads = sizes["width"], sizes["heads"]
    if width % heads:
        raise ValueError(f"architecture.width={width} is not a multiple of architecture.heads={heads}: choose one that is.")
