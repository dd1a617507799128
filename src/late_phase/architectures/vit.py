"""A small Vision Transformer (Dosovitskiy et al., 2021) as simplified by Beyer et al. (2022): no class token, fixed positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from late_phase.architectures.transformer import Block, check_sizes, initialize

LONGEST = 10_000
"""The longest wavelength of the positions, in patches, is 2 π times this."""


class ViT(nn.Module):
    """Images ``[examples, channels, height, width]`` -> logits ``[examples, classes]``, for any size that patches divide.

    Each patch becomes a vector by a linear map, to which the code of its position is added. The mean over all patches is
    classified. The linear map of patches starts as torch's convolutions do, everything else as in GPT-2.

    Args:
        patch: side of a patch in pixels.
        depth: number of blocks.
        heads: heads of each attention; the width must be a multiple.
        width: width of the residual stream, a multiple of 4.

    Raises:
        ValueError: a size is out of range, or ``forward`` gets images that patches don't divide.
    """

    def __init__(self, channels: int, classes: int, patch: int = 4, depth: int = 6, heads: int = 4, width: int = 128) -> None:
        super().__init__()
        check_sizes(patch=patch, depth=depth, heads=heads, width=width)
        if width % 4:
            raise ValueError(f"architecture.width={width} is not a multiple of 4, which positions need: choose one that is.")
        self.patch = patch
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.blocks = nn.Sequential(*(Block(width, heads, causal=False) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"architecture.patch={self.patch} doesn't divide images of {width} x {height} pixels: choose one that does."
            )
        x = self.patches(images)
        x = (x + positions(*x.shape[1:], x.device)).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(1))


def positions(width: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """Returns the code ``[width, rows, columns]`` of each place in a grid of patches.

    A quarter of it are the sines of the column's number times ``width`` / 4 frequencies, which fall geometrically from 1 to
    1 / ``LONGEST``. The other quarters are the cosines, and the sines and cosines of the row's number.
    """
    frequencies = torch.logspace(0, -1, width // 4, LONGEST, device=device)[:, None]
    codes = []
    for number in (columns, rows):
        angles = frequencies * torch.arange(number, device=device)
        codes.append(torch.cat((angles.sin(), angles.cos())))
    along, down = codes
    return torch.cat((along[:, None].expand(-1, rows, -1), down[:, :, None].expand(-1, -1, columns)))
