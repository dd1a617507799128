"""A transformer's block, a head and a position at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def layer(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)


def normed(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    deviation = x - x.mean(-1, keepdim=True)
    return deviation / (deviation.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights[f"{name}.weight"] + weights.get(
        f"{name}.bias", 0
    )


def attention(x: Tensor, weights: dict[str, Tensor], name: str, heads: int, causal: bool) -> Tensor:
    """A head and a position at a time, for one example ``[positions, width]``."""
    q, k, v = layer(x, weights, f"{name}.qkv").chunk(3, 1)
    out, size = torch.zeros_like(x), x.shape[1] // heads
    for own in (slice(h * size, (h + 1) * size) for h in range(heads)):
        for i in range(len(x)):
            seen = range(i + 1) if causal else range(len(x))
            scores = [math.exp((q[i, own] @ k[j, own]).item() / math.sqrt(size)) for j in seen]
            out[i, own] = sum(score * v[j, own] for score, j in zip(scores, seen, strict=True)) / sum(scores)
    return layer(out, weights, f"{name}.out")


def block(x: Tensor, weights: dict[str, Tensor], name: str, heads: int, causal: bool) -> Tensor:
    """For one example ``[positions, width]``, with the exact GELU."""
    x = x + attention(normed(x, weights, f"{name}.norm1"), weights, f"{name}.attention", heads, causal)
    hidden = layer(normed(x, weights, f"{name}.norm2"), weights, f"{name}.expand")
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    return x + layer(hidden, weights, f"{name}.shrink")
